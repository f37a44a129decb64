"""When state is kept: snapshots in memory at healthy fences, checkpoints on disk by steps, epochs and wall time."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import StorageError
from esper_core.logs import get_logger
from tolaria.reporting.reporter import Reporter
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import CheckpointStore, Reason
from tolaria.state.ring import SnapshotRing
from tolaria.training.session import Session

_log = get_logger("state")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When to keep state.

    Attributes
    ----------
    snapshot_steps : int
        Steps between two snapshots in memory.
    checkpoint_steps : int
        Steps between two checkpoints; 0 means once per epoch, but not more often than `spacing_s`.
    longest_s : float
        Longest wall time between two checkpoints.
    spacing_s : float
        Shortest wall time between two checkpoints that an epoch's end asks for.
    """

    snapshot_steps: int
    checkpoint_steps: int
    longest_s: float
    spacing_s: float


class StateKeeper:
    """Keeps the state of a run; called after every healthy step."""

    def __init__(
        self,
        session: Session,
        ring: SnapshotRing,
        store: CheckpointStore,
        rhythm: Rhythm,
        reporter: Reporter,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._ring = ring
        self._store = store
        self._rhythm = rhythm
        self._reporter = reporter
        self._clock = clock
        self._written_at = clock.monotonic()

    def start(self) -> None:
        """Keep the state from which this start of the run begins."""
        self._ring.put(capture_session(self._session, self._reporter.elapsed_s))

    def keep(self) -> None:
        """Keep what is due."""
        step = self._session.counters.step
        if step % self._rhythm.snapshot_steps == 0:
            self.start()
        if self._due(step):
            self.checkpoint("interval")

    def checkpoint(self, reason: Reason) -> None:
        """Write a checkpoint and tell about it.

        A full disk must not end a run that could go on, so for "interval" the failure is told and the next is tried.

        Raises
        ------
        StorageError
            If a checkpoint that somebody relies on ("halt", "final") cannot be written.
        """
        self._written_at = self._clock.monotonic()
        snapshot = capture_session(self._session, self._reporter.elapsed_s)
        try:
            record = self._store.write(snapshot, reason)
        except StorageError as error:
            _log.error("a checkpoint could not be written", reason=reason, error=error.message)
            self._reporter.checkpoint_damaged(f"{snapshot.step:010d}-{reason}", error.message)
            if reason in ("halt", "final"):
                raise
            return
        self._reporter.checkpointed(record)

    def _due(self, step: int) -> bool:
        age_s = self._clock.monotonic() - self._written_at
        if self._rhythm.checkpoint_steps:
            by_plan = step % self._rhythm.checkpoint_steps == 0
        else:
            by_plan = self._session.at_epoch_end and age_s >= self._rhythm.spacing_s
        return by_plan or age_s >= self._rhythm.longest_s
