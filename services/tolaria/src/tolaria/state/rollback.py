"""Two-tier rollback: from the ring in memory, else from a durable checkpoint that is read away from this thread.

The fast tier takes the newest good snapshot. Where the ring has none, or a full rollback is asked for, the newest good
checkpoint is read on another thread into staging, and put in place here only if that was done before the deadline; a
reading that comes too late is dropped and never touches the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_runtime.snapshot import Snapshot
from tolaria.state.capture import rewind_session
from tolaria.state.checkpoints import BadCheckpoint, CheckpointStore
from tolaria.state.ring import SnapshotRing
from tolaria.training.orders import RollbackDone
from tolaria.training.session import Session

Found = tuple[Snapshot | None, list[BadCheckpoint]]


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
    """

    def __init__(
        self,
        session: Session,
        ring: SnapshotRing,
        store: CheckpointStore,
        deadlines: Deadlines,
        on_bad: Callable[[BadCheckpoint], None],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._ring = ring
        self._store = store
        self._deadlines = deadlines
        self._on_bad = on_bad
        self._clock = clock

    def go_back(self, trigger: str, *, to_step: int | None = None, full: bool = False) -> RollbackDone:
        """Restore the newest good state not after `to_step`; the result says how it ended, nothing is raised."""
        began = time.perf_counter()
        held = None if full else self._ring.newest(to_step)
        tier_s = self._deadlines.full_s if held is None else self._deadlines.fast_s
        deadline_at = self._clock.wall().timestamp() + tier_s
        outcome, step, message = self._fast(held) if held is not None else self._full(to_step)
        if step is not None:
            self._ring.forget_after(step)
            self._session.counters.rollbacks += 1
        latency = time.perf_counter() - began
        if latency > tier_s and step is not None:
            message = f"{message} It took longer than its deadline of {tier_s:g} s."
        return RollbackDone(outcome, trigger, latency, deadline_at, step, message)

    def _fast(self, held: Snapshot) -> tuple[int, int | None, str]:
        return self._commit(held, leyline.ROLLBACK_OUTCOME_FAST_HIT, "memory")

    def _full(self, to_step: int | None) -> tuple[int, int | None, str]:
        reader = ThreadPoolExecutor(1, "rollback-reader")
        reading: Future[Found] = reader.submit(self._store.latest_good, to_step)
        try:
            snapshot, bad = reading.result(self._deadlines.full_s)
        except TooLate:
            return leyline.ROLLBACK_OUTCOME_DEADLINE, None, "No checkpoint could be read before the deadline."
        except EsperError as error:
            return leyline.ROLLBACK_OUTCOME_ERROR, None, error.message
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
        for checkpoint in bad:
            self._on_bad(checkpoint)
        if snapshot is None:
            return leyline.ROLLBACK_OUTCOME_MISS, None, "There is no good state to go back to."
        return self._commit(snapshot, leyline.ROLLBACK_OUTCOME_FULL_HIT, "a checkpoint")

    def _commit(self, snapshot: Snapshot, outcome: int, source: str) -> tuple[int, int | None, str]:
        before = self._session.counters.step
        try:
            rewind_session(self._session, snapshot)
        except EsperError as error:
            return leyline.ROLLBACK_OUTCOME_ERROR, None, error.message
        return outcome, snapshot.step, f"Went back from step {before} to step {snapshot.step} from {source}."
