"""One arm of a comparison: a run of Tolaria's own loop, from its spec to what it scored on the test split."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.growth.clock import StepClock
from benchmarks.growth.control import ControlPlane
from benchmarks.growth.directors import Director, TamiyoDirector
from benchmarks.growth.kernels import Kernels
from esper_core import leyline
from esper_core.errors import RunHaltedError
from esper_core.ids import new_run_id
from esper_tasks import load_task
from kasmina.rules import Rules
from tamiyo.evaluation import Rulebook
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.safety.deadlines import DeadlineBoard
from tolaria.safety.signals import SignalReader
from tolaria.settings import WorkerSettings
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.links import make_links
from tolaria.training.loop import LoopParts, TrainingLoop
from tolaria.training.opening import open_session
from tolaria.training.orders import Ending
from tolaria.training.planning import resolve_plan
from tolaria.training.session import Session
from tolaria.training.validation import final_test, validate
from tolaria.worker.assembly import Surroundings, assemble
from tolaria.worker.ending import run_result
from tolaria.worker.facts import run_facts
from tolaria.worker.start import begin

LAST_FENCE_S: Final = 5.0
"""Wall time at the last fence, the one place where the loop looks at the machine's clock: enough for some twenty looks,
of which Tamiyo needs five."""

MakeDirector = Callable[[StepClock, Rulebook], Director]
Watch = Callable[["Running"], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What steers a run besides its spec.

    Attributes
    ----------
    director : callable
        Makes who decides; Tamiyo's controller where nothing else is said.
    rules : Rules
        Kasmina's bounds.
    rulebook : Rulebook
        Tamiyo's bounds.
    kernels : callable
        Makes where kernels come from.
    watch : callable, optional
        Called before the first turn of the loop and after each.
    explosion_factor : float
        Loss over the first losses at which Tolaria rolls back by itself.
    """

    director: MakeDirector = TamiyoDirector
    rules: Rules = field(default_factory=Rules)
    rulebook: Rulebook = field(default_factory=Rulebook)
    kernels: Callable[[], Kernels] = Kernels
    watch: Watch | None = None
    explosion_factor: float = 4.0


@dataclass(frozen=True, slots=True)
class Running:
    """A run between two turns, as a watch sees it."""

    session: Session
    parts: LoopParts
    board: StatusBoard
    control: ControlPlane | None


@dataclass(slots=True)
class Point:
    """A validation pass."""

    step: int
    fraction: float
    loss: float


@dataclass(slots=True)
class Trained:
    """What came of a run; `score` is accuracy in percent, or bits per character."""

    score: float
    validation: float
    parameters_initial: int
    parameters_final: int
    flops: int
    inference_flops: int
    wall_s: float
    steps: int
    rollbacks: int
    seeds: list[dict[str, Any]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)


def train(spec: leyline.RunSpec, course: Course | None = None, *, keep: Path | None = None) -> Trained:
    """Train a run to its end.

    Parameters
    ----------
    spec : RunSpec
        As a user would submit it.
    course : Course, optional
        What steers it; only looked at where the spec asks for growth.
    keep : Path, optional
        Folder for its last checkpoint, from which another run may start.

    Raises
    ------
    RunHaltedError
        If the run was halted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _train(spec, course or Course(), RunDirectory(Path(scratch)), keep)


def _train(spec: leyline.RunSpec, course: Course, run_dir: RunDirectory, keep: Path | None) -> Trained:
    task = load_task(spec.task)
    session = open_session(resolve_plan(new_run_id(), spec, task), task)
    store = CheckpointStore(keep or run_dir.checkpoints_path, 3)
    begin(session, CheckpointStore(run_dir.checkpoints_path, 3))
    request = RunRequest(session.plan.run_id, spec, datetime.now(UTC))
    events = EventLog(run_dir.events_path, request.run_id)
    try:
        board = StatusBoard(request, pid=1)
        parts = _parts(session, board, events, store, run_dir, course.explosion_factor)
        running = Running(session, parts, board, _control(session, parts, course))
        began = time.perf_counter()
        curve = _drive(running, course.watch)
        wall_s = time.perf_counter() - began
        if keep is not None:
            parts.keeper.checkpoint("final")
        return _trained(running, curve, wall_s)
    finally:
        events.close()


def _parts(
    session: Session,
    board: StatusBoard,
    events: EventLog,
    store: CheckpointStore,
    run_dir: RunDirectory,
    explosion_factor: float,
) -> LoopParts:
    """Assemble the loop with nothing in it that depends on wall time."""
    settings = WorkerSettings(
        evidence_spacing_ms=0.0,
        checkpoint_interval_s=1e9,
        checkpoint_spacing_s=1e9,
        final_fence_s=LAST_FENCE_S,
        explosion_factor=explosion_factor,
    )
    around = Surroundings(
        settings,
        make_links(settings.outbox_limit),
        board,
        events,
        store,
        lambda: None,
        SignalReader(run_dir),
        DeadlineBoard(run_dir),
    )
    return assemble(session, around)


def _control(session: Session, parts: LoopParts, course: Course) -> ControlPlane | None:
    if not session.plan.growth.enabled:
        return None
    clock = StepClock()
    director = course.director(clock, course.rulebook)
    control = ControlPlane(
        run_facts(session), parts.links, parts.reporter, director, clock, course.rules, course.kernels()
    )
    control.connect()
    return control


def _drive(running: Running, watch: Watch | None) -> list[Point]:
    session, parts = running.session, running.parts
    loop = TrainingLoop(parts)
    parts.keeper.start()
    parts.reporter.change_state(leyline.RUN_STATE_RUNNING, "Measured.")
    curve: list[Point] = []
    if watch is not None:
        watch(running)
    while True:
        before = session.counters.step
        ending = loop.turn()
        if ending is not None:
            return _ended(ending, curve)
        if session.counters.step > before and session.at_epoch_end:
            curve.append(Point(session.counters.step, session.fraction, running.board.progress().validation_loss))
        if watch is not None:
            watch(running)


def _ended(ending: Ending, curve: list[Point]) -> list[Point]:
    if ending.how != "completed":
        raise RunHaltedError(f"A measured run was halted: {ending.reason}")
    return curve


def _trained(running: Running, curve: list[Point], wall_s: float) -> Trained:
    session = running.session
    result = run_result(running.parts, final_test(session), wall_s, 0)
    held = validate(session)
    by_accuracy = result.accuracy_measured
    return Trained(
        score=100 * result.accuracy if by_accuracy else result.bits_per_character,
        validation=100 * (held.accuracy or 0.0) if by_accuracy else (held.bits_per_character or 0.0),
        parameters_initial=result.parameters_initial,
        parameters_final=result.parameters_final,
        flops=result.flops,
        inference_flops=result.inference_flops_per_example,
        wall_s=wall_s,
        steps=result.steps,
        rollbacks=result.rollbacks,
        seeds=_seeds(running),
        ends=_ends(running),
        curve=curve,
    )


def _ends(running: Running) -> list[str]:
    """Return why each seed left, as Kasmina told it; a rollback makes the book forget them."""
    told = running.control.transitions if running.control else []
    return [one.reason for one in told if one.to_stage == leyline.SEED_STAGE_CULLED]


def _seeds(running: Running) -> list[dict[str, Any]]:
    steps = max(1, running.session.counters.step)
    culled = {one.seed_id: one.reason for one in running.control.transitions} if running.control else {}
    return [
        {
            "site": entry.site,
            "blueprint": entry.blueprint_id,
            "stage": leyline.SeedStage.Name(leyline.SeedStage.ValueType(entry.stage)).removeprefix("SEED_STAGE_"),
            "germinated_step": entry.germinated_step,
            "of_steps": steps,
            "parameters": entry.parameter_count,
            "last_reason": culled.get(entry.seed_id, entry.settled_by),
        }
        for entry in running.session.book
    ]
