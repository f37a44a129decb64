"""Where a worker begins: fresh, from another run's checkpoint, or where an earlier start of the same run stopped."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esper_core import leyline
from esper_core.errors import NotFoundError, StateConflictError
from esper_runtime import load_kernel, materialise, stages
from esper_runtime.errors import TopologyMismatchError
from esper_runtime.ownership import HOST
from esper_runtime.snapshot import Snapshot, capture_random, restore
from esper_runtime.snapshot_store import read_snapshot
from esper_runtime.topology import Topology
from tolaria.state.capture import restore_session
from tolaria.state.checkpoints import BadCheckpoint, CheckpointStore
from tolaria.state.teachers import load_teacher
from tolaria.training.optimizer import build_optimizer
from tolaria.training.session import Session
from tolaria.training.statistics import LossStatistics
from tolaria.training.teacher import take_teacher


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the run goes on: a sentence for people, and the checkpoints that could not be used."""

    reason: str
    resumed: bool
    bad: tuple[BadCheckpoint, ...] = ()


def begin(session: Session, store: CheckpointStore) -> Begun:
    """Bring a fresh session to where the run stands.

    Raises
    ------
    NotFoundError
        If the checkpoint to start from does not exist.
    SnapshotIntegrityError
        If it is damaged.
    TopologyMismatchError
        If a checkpoint belongs to another model.
    """
    snapshot, bad = store.latest_good()
    if snapshot is not None:
        restore_session(session, snapshot)
        return Begun(f"Resumed at step {snapshot.step}.", True, tuple(bad))
    source = session.plan.start_from
    if source and session.plan.topology_only:
        plant_topology(session, _read(Path(source)).topology)
        return Begun(f"Started with the topology in {source} and new weights.", False, tuple(bad))
    if source:
        adopt_model(session, _read(Path(source)))
        return Begun(f"Started from the model in {source}.", False, tuple(bad))
    return Begun("Started.", False, tuple(bad))


def begin_teaching(session: Session, former: leyline.TeacherChange | None = None) -> leyline.TeacherChange | None:
    """Let a session learn from the teacher of its plan.

    Parameters
    ----------
    session : Session
        Where the run stands.
    former : TeacherChange, optional
        What an earlier start of the run told last about its teacher.

    Returns
    -------
    TeacherChange or None
        The news; None where the plan names no teacher, or it was dismissed earlier.

    Raises
    ------
    StateConflictError
        If the folder holds another teacher than an earlier start of the run has learned from.
    EsperError
        If it cannot be loaded, does not fit or is too large; the session is as it was then.
    """
    plan = session.plan.teacher
    if plan is None or (former is not None and not former.takes_part):
        return None
    loaded = load_teacher(session, Path(plan.source), plan.memory_bytes)
    if former is not None and former.teacher_id != loaded.teacher_id:
        raise StateConflictError(
            f"{plan.source} holds the teacher {loaded.teacher_id}, and this run has learned from {former.teacher_id}. "
            "Put that one back, or start a new run."
        )
    return take_teacher(session, plan, loaded)


def adopt_model(session: Session, snapshot: Snapshot) -> None:
    """Take topology and weights of another run; optimizer, data order, counters and random state stay this run's own.

    Seeds that were unsettled there are taken out; kept ones belong to the host and train with it.
    """
    own = capture_random({})
    restore(session.host, replace(snapshot, random=own, optimizer=None))
    for record in session.host.seeds():
        if record.stage != stages.FOSSILIZED:
            session.host.cull(record.seed_id)
    former = snapshot.cursor.get("statistics")  # a snapshot that a user's own loop made has none
    if former is not None:
        session.statistics.come_after(LossStatistics.from_dict(former))
    _train_all_as_host(session)


def plant_topology(session: Session, topology: Topology) -> None:
    """Give a fresh host the seeds that another run kept, with new weights, as if it had been designed like that.

    Raises
    ------
    TopologyMismatchError
        If a kept seed is a module that its user brought along, so that nothing says how to build it anew.
    """
    kept = [record for record in topology.grafts if record.stage == stages.FOSSILIZED]
    for number, record in enumerate(kept):
        if record.kernel is None:
            raise TopologyMismatchError(f"Seed {record.seed_id} has no blueprint and cannot be built with new weights.")
        weights = materialise(record.kernel, session.plan.random_seed + number)
        module = load_kernel(record.kernel, weights)
        session.host.germinate(record.site, module, seed_id=record.seed_id, blend=record.blend, kernel=record.kernel)
        session.host.set_stage(record.seed_id, stages.PROBATIONARY)
        session.host.fossilise(record.seed_id)
    _train_all_as_host(session)


def _train_all_as_host(session: Session) -> None:
    parameters = list(session.host.ownership.parameters(HOST).values())
    session.optimizer = build_optimizer(session.plan.optimizer, parameters)
    session.counters.parameters_initial = session.host.parameter_count()
    session.topology_changed()


def was_interrupted(status: leyline.RunStatus | None) -> bool:
    """Say whether an earlier start of the run ended by a crash: it never said that it had ended."""
    waiting_or_ended = (
        leyline.RUN_STATE_PENDING,
        leyline.RUN_STATE_HALTED,
        leyline.RUN_STATE_COMPLETED,
        leyline.RUN_STATE_FAILED,
    )
    return status is not None and status.state not in waiting_or_ended


def use_one_interop_thread() -> None:
    """Keep torch from starting a pool per core beside the one of the spec; must come before the first operation."""
    torch.set_num_interop_threads(1)


def let_the_mediator_in() -> None:
    """Make the training thread give up the interpreter lock 1 ms after the mediator asks for it, not 5.

    An RPC takes the lock several times; at the interpreter's own setting each costs up to 5 ms beside short steps.
    """
    sys.setswitchinterval(0.001)


def _read(folder: Path) -> Snapshot:
    if not folder.is_dir():
        raise NotFoundError(f"There is no checkpoint folder {folder}. Give the folder of one checkpoint.")
    return read_snapshot(folder)
