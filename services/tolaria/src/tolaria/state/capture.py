"""From a session to a snapshot and back; what belongs to the trainer travels in the snapshot as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from esper_runtime.errors import SnapshotIntegrityError
from esper_runtime.snapshot import Snapshot, capture, restore
from esper_tasks import Cursor
from tolaria.growth.book import SeedBook
from tolaria.training.learning_rate import LearningRateState
from tolaria.training.session import Counters, Session
from tolaria.training.statistics import LossStatistics


@dataclass(frozen=True, slots=True)
class _Kept:
    rate: LearningRateState
    cursor: Cursor
    counters: Counters
    statistics: LossStatistics
    book: SeedBook


def capture_session(session: Session, elapsed_s: float) -> Snapshot:
    """Copy everything that a run needs to go on from this fence, bit for bit.

    Parameters
    ----------
    session : Session
        The run, between two optimizer steps.
    elapsed_s : float
        Wall time of the run so far, over all its starts.
    """
    return capture(
        session.host,
        step=session.counters.step,
        optimizer=session.optimizer,
        scheduler=session.learning_rate.state.to_dict(),
        cursor={
            "data": session.sampler.cursor.to_dict(),
            "counters": {**asdict(session.counters), "elapsed_s": elapsed_s},
            "statistics": session.statistics.to_dict(),
            "book": session.book.to_dict(),
            **({"precision": session.precision.to_dict()} if session.precision is not None else {}),
        },
    )


def restore_session(session: Session, snapshot: Snapshot) -> None:
    """Make a session what it was.

    Raises
    ------
    SnapshotIntegrityError
        If it lacks what a run needs, because no run wrote it; nothing is changed then.
    TopologyMismatchError, UnknownSiteError
        If the snapshot belongs to another model; nothing is changed then.
    """
    kept = _kept_by(snapshot)
    restore(session.host, snapshot, optimizer=session.optimizer)
    session.learning_rate.state = kept.rate
    session.sampler.seek(kept.cursor)
    session.counters, session.statistics, session.book = kept.counters, kept.statistics, kept.book
    if session.precision is not None:
        session.precision.load(snapshot.cursor.get("precision", {}))
    session.topology_changed()


def _kept_by(snapshot: Snapshot) -> _Kept:
    """Read the trainer's part of a snapshot before anything is changed by it."""
    try:
        return _Kept(
            LearningRateState.from_dict(snapshot.scheduler),
            Cursor.from_dict(snapshot.cursor["data"]),
            Counters(**snapshot.cursor["counters"]),
            LossStatistics.from_dict(snapshot.cursor["statistics"]),
            SeedBook.from_dict(snapshot.cursor["book"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotIntegrityError(
            f"The snapshot of step {snapshot.step} was not written by a run of this version: {error!r} is missing or "
            "of another kind. Start from it with --from, or from another checkpoint.",
            details={"reason": "manifest_format"},
        ) from error


def rewind_session(session: Session, snapshot: Snapshot) -> None:
    """Go back to a snapshot, but keep what a rollback must not undo: FLOPs that were spent, and the count of rollbacks.

    Raises
    ------
    TopologyMismatchError
        If the snapshot belongs to another model; nothing is changed then.
    """
    spent = session.counters
    restore_session(session, snapshot)
    session.counters.flops = spent.flops
    session.counters.rollbacks = spent.rollbacks
    session.counters.elapsed_s = spent.elapsed_s
