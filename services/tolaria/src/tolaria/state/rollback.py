"""Two-tier rollback: from the ring in memory, else from a durable checkpoint that is read away from this thread.

The fast tier takes the newest good snapshot. Where the ring has none or its snapshot does not fit, or a full rollback
is asked for, the newest good checkpoint is read on another thread into staging, and put in place here only if that was
done before the deadline and under a token that is still good; a reading that comes too late never touches the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_runtime.snapshot import Snapshot
from tolaria.safety.deadlines import DeadlineBoard
from tolaria.state.capture import rewind_session
from tolaria.state.checkpoints import BadCheckpoint, CheckpointStore
from tolaria.state.ring import SnapshotRing
from tolaria.state.staging import Staging
from tolaria.training.orders import RollbackDone
from tolaria.training.session import Session


@dataclass(frozen=True, slots=True)
class _Restored:
    """How one tier ended; `step` is None where nothing was put in place."""

    outcome: int
    step: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each tier may take, in seconds."""

    fast_s: float
    full_s: float


class Rollback:
    """Takes a session back.

    Parameters
    ----------
    session : Session
        The run.
    ring : SnapshotRing
        The fast tier.
    store : CheckpointStore
        The full tier.
    deadlines : Deadlines
        Of both.
    on_bad : callable
        Told about every damaged checkpoint that was passed over.
    board : DeadlineBoard, optional
        Where deadlines are announced to other processes; None where nobody watches.
    """

    def __init__(
        self,
        session: Session,
        ring: SnapshotRing,
        store: CheckpointStore,
        deadlines: Deadlines,
        on_bad: Callable[[BadCheckpoint], None],
        board: DeadlineBoard | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._ring = ring
        self._staging = Staging(store.latest_good)
        self._deadlines = deadlines
        self._on_bad = on_bad
        self._board = board
        self._clock = clock

    def go_back(self, trigger: str, *, to_step: int | None = None, full: bool = False) -> RollbackDone:
        """Restore the newest good state not after `to_step`; the result says how it ended, nothing is raised."""
        began, began_at = time.perf_counter(), self._clock.wall().timestamp()
        held = None if full else self._ring.newest(to_step)
        with self._announced(began_at):
            restored = None if held is None else self._fast(held)
            full = restored is None or restored.step is None
            if restored is None or restored.step is None:
                restored = self._full(to_step, began)
        if restored.step is not None:
            self._ring.forget_after(restored.step)
            self._session.counters.rollbacks += 1
        deadline_s = self._deadlines.full_s if full else self._deadlines.fast_s
        return _done(restored, trigger, time.perf_counter() - began, began_at, deadline_s, full)

    @contextmanager
    def _announced(self, began_at: float) -> Iterator[None]:
        """Let others know until when this must be over, whichever tier it takes."""
        if self._board is None:
            yield
            return
        full_s = self._deadlines.full_s
        self._board.begin(self._clock.monotonic() + full_s, began_at + full_s)
        try:
            yield
        finally:
            self._board.over()

    def _fast(self, held: Snapshot) -> _Restored:
        return self._commit(held, leyline.ROLLBACK_OUTCOME_FAST_HIT, "memory")

    def _full(self, to_step: int | None, began: float) -> _Restored:
        left_s = self._deadlines.full_s - (time.perf_counter() - began)
        try:
            staged = self._staging.fetch(to_step, self._session.host.generation, max(0.0, left_s))
        except TimeoutError:
            late = "No checkpoint could be read before the deadline."
            return _Restored(leyline.ROLLBACK_OUTCOME_DEADLINE, None, late)
        except EsperError as error:
            return _Restored(leyline.ROLLBACK_OUTCOME_ERROR, None, error.message)
        for checkpoint in staged.bad:
            self._on_bad(checkpoint)
        if staged.snapshot is None:
            return _Restored(leyline.ROLLBACK_OUTCOME_MISS, None, "There is no good state to go back to.")
        if not self._staging.admits(staged.token, self._session.host.generation):
            changed = "The topology changed while the checkpoint was read."
            return _Restored(leyline.ROLLBACK_OUTCOME_ERROR, None, changed)
        return self._commit(staged.snapshot, leyline.ROLLBACK_OUTCOME_FULL_HIT, "a checkpoint")

    def _commit(self, snapshot: Snapshot, outcome: int, source: str) -> _Restored:
        before = self._session.counters.step
        try:
            rewind_session(self._session, snapshot)
        except EsperError as error:
            return _Restored(leyline.ROLLBACK_OUTCOME_ERROR, None, error.message)
        told = f"Went back from step {before} to step {snapshot.step} from {source}."
        return _Restored(outcome, snapshot.step, told)


def _done(
    restored: _Restored, trigger: str, latency_s: float, began_at: float, deadline_s: float, full: bool
) -> RollbackDone:
    message = restored.message
    if latency_s > deadline_s and restored.step is not None:
        message = f"{message} It took longer than its deadline of {deadline_s:g} s."
    return RollbackDone(
        outcome=restored.outcome,
        trigger=trigger,
        latency_s=latency_s,
        deadline_at_s=began_at + deadline_s,
        restored_step=restored.step,
        message=message,
        deadline_s=deadline_s,
        full=full,
    )
