"""Small runs of the trainer for tests: a session on Letter, its parts, and directives as Kasmina would send them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from esper_core import leyline
from esper_core.blueprints import KernelSpec, sha256_hex
from esper_core.clocks import to_timestamp
from esper_core.ids import new_id, new_run_id
from esper_runtime.kernels import load_kernel, materialise
from esper_tasks import load_task
from tolaria.growth.prepared import PreparedKernel
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.safety.deadlines import DeadlineBoard
from tolaria.safety.signals import SignalReader
from tolaria.settings import WorkerSettings
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.links import Links, make_links
from tolaria.training.loop import LoopParts
from tolaria.training.opening import open_session
from tolaria.training.planning import resolve_plan
from tolaria.training.session import Session
from tolaria.worker.assembly import Surroundings, assemble
from tolaria.worker.wiring import open_bridge

SITE = "hidden1"
BLUEPRINT = "mlp_residual.v1"
SEED = "01M7YZA3SEEM54XTFHCAEHJ41J/hidden1/0"


def letter_spec(**changes: object) -> leyline.RunSpec:
    """A run of Letter with a few steps; fields of RunSpec may be changed."""
    fields: dict[str, object] = {"version": 1, "task": "letter", "max_steps": 60, "random_seed": 7, **changes}
    return leyline.RunSpec(**fields)  # type: ignore[arg-type]


def open_letter(spec: leyline.RunSpec | None = None, run_id: str = "") -> Session:
    """A fresh session."""
    spec = spec or letter_spec()
    task = load_task(spec.task)
    return open_session(resolve_plan(run_id or new_run_id(), spec, task), task)


@dataclass(slots=True)
class SmallRun:
    """A session with all its parts around a folder."""

    session: Session
    parts: LoopParts
    links: Links
    board: StatusBoard
    events: EventLog
    store: CheckpointStore
    folder: RunDirectory


def small_run(folder: Path, spec: leyline.RunSpec | None = None, **settings: object) -> SmallRun:
    """A session with its parts; the caller closes `events`."""
    spec = spec or letter_spec()
    session = open_letter(spec)
    run_dir = RunDirectory(folder)
    request = RunRequest(session.plan.run_id, spec, datetime.now(UTC))
    run_dir.write_request(request)
    board = StatusBoard(request, pid=1)
    events = EventLog(run_dir.events_path, request.run_id)
    chosen = WorkerSettings(**{"final_fence_s": 0.2, "checkpoint_interval_s": 3600.0, **settings})  # type: ignore[arg-type]
    store = CheckpointStore(run_dir.checkpoints_path, chosen.checkpoints_kept)
    links = make_links(chosen.outbox_limit)
    bridge = open_bridge(chosen, request.run_id)
    around = Surroundings(
        chosen,
        links,
        board,
        events,
        store,
        lambda: run_dir.write_status(board.status()),
        SignalReader(run_dir),
        DeadlineBoard(run_dir, bridge),
        bridge,
    )
    return SmallRun(session, assemble(session, around), links, board, events, store, run_dir)


def prepare_kernel(
    session: Session, links: Links, seed_id: str, site: str = SITE, blueprint_id: str = BLUEPRINT
) -> PreparedKernel:
    """Build a kernel for a site as the mediator would, and put it where ATTACH finds it."""
    spec = KernelSpec(blueprint_id, session.host.contract(site))
    weights = materialise(spec, 3)
    module = load_kernel(spec, weights, digest=sha256_hex(weights))
    count = sum(parameter.numel() for parameter in module.parameters())
    kernel = PreparedKernel(seed_id, module, spec, sha256_hex(weights), count)
    links.prepared.put(kernel)
    return kernel


def directive(session: Session, seed_id: str, kind: int, site: str = SITE, **details: object) -> leyline.Directive:
    """A directive on the session's present generation, valid for ten seconds."""
    fields: dict[str, object] = {
        "version": 1,
        "directive_id": new_id("directive"),
        "training_run_id": session.plan.run_id,
        "seed_id": seed_id,
        "site": site,
        "kind": kind,
        "generation": session.host.generation,
        "deadline": to_timestamp(datetime.now(UTC) + timedelta(seconds=10)),
        "command_id": "command-1",
        **details,
    }
    return leyline.Directive(**fields)  # type: ignore[arg-type]


def attach(session: Session, seed_id: str, **details: object) -> leyline.Directive:
    """ATTACH."""
    return directive(session, seed_id, leyline.DIRECTIVE_KIND_ATTACH, SITE, **details)


def set_stage(session: Session, seed_id: str, stage: int) -> leyline.Directive:
    """SET_STAGE, with the host frozen in TRAINING."""
    chosen = leyline.SetStage(stage=leyline.SeedStage.ValueType(stage), isolation=leyline.ISOLATION_MODE_FREEZE)
    return directive(session, seed_id, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=chosen)


def set_blend(session: Session, seed_id: str, steps: int) -> leyline.Directive:
    """SET_BLEND: residual and linear to full alpha."""
    blend = leyline.BlendConfig(
        mode=leyline.BLEND_MODE_RESIDUAL,
        target_alpha=1.0,
        schedule=leyline.ALPHA_SCHEDULE_LINEAR,
        end_steps=steps,
    )
    return directive(session, seed_id, leyline.DIRECTIVE_KIND_SET_BLEND, blend=blend)


def detach(session: Session, seed_id: str) -> leyline.Directive:
    """DETACH."""
    return directive(session, seed_id, leyline.DIRECTIVE_KIND_DETACH)
