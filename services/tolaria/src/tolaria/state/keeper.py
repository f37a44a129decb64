"""When state is kept: snapshots in memory at healthy fences, checkpoints on disk by steps, epochs and wall time."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.logs import get_logger
from esper_runtime.snapshot import Snapshot
from tolaria.reporting.reporter import Reporter
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import CheckpointRecord, CheckpointStore, Reason
from tolaria.state.ring import SnapshotRing
from tolaria.state.writer import CheckpointWriter
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
        self._writer = CheckpointWriter(store, reporter.sync)
        self._rhythm = rhythm
        self._epoch_steps = session.sampler.batches_per_epoch
        self._reporter = reporter
        self._clock = clock
        self._written_at = clock.monotonic()

    def start(self) -> None:
        """Keep the state from which this start of the run begins."""
        self._ring.put(self._capture())

    def keep(self) -> None:
        """Keep what is due; one capture serves both tiers."""
        step = self._session.counters.step
        if self._writer.busy:
            self._collect()
        snapshot = self._capture() if step % self._rhythm.snapshot_steps == 0 else None
        if snapshot is not None:
            self._ring.put(snapshot)
        if self._due(step):
            self._begin(snapshot or self._capture(), "interval")

    def checkpoint(self, reason: Reason) -> None:
        """Write a checkpoint, wait until it is on disk, and tell about it.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        self._begin(self._capture(), reason)
        self._collect(wait=True)

    def went_back(self) -> None:
        """Make sure after a rollback that a later start of the run cannot find what the run went back from.

        Where a newer checkpoint lies on disk, the state as it is now is written first and put in its place; training
        waits for that, because until then a crash would bring the course back that was just left.
        """
        self._collect(wait=True)
        step = self._session.counters.step
        if any(record.step > step for record in self._store.records()):
            self.checkpoint("rollback")
            self._store.forget_after(step)

    def close(self) -> None:
        """Wait for a checkpoint that is still being written."""
        self._collect(wait=True)

    def _capture(self) -> Snapshot:
        return capture_session(self._session, self._reporter.elapsed_s)

    def _begin(self, snapshot: Snapshot, reason: Reason) -> None:
        # A disk that cannot keep up with the steps of a plan holds training back, else the plan would not be kept.
        self._collect(wait=True)
        self._written_at = self._clock.monotonic()
        self._writer.begin(snapshot, reason, self._session.epoch, self._session.host.generation)

    def _collect(self, *, wait: bool = False) -> None:
        """Tell how a writing ended.

        A full disk must not end a run that could go on, so for "interval" the failure is told and the next is tried.
        """
        written = self._writer.collect(wait=wait)
        if written is None:
            return
        if isinstance(written.outcome, CheckpointRecord):
            self._reporter.checkpointed(written.outcome, written.epoch, written.generation)
            return
        error, reason = written.outcome, written.reason
        _log.error("a checkpoint could not be written", reason=reason, error=error.message)
        self._reporter.checkpoint_damaged(f"{written.snapshot.step:010d}-{reason}", error.message)
        if reason in ("halt", "final"):
            raise error

    def _due(self, step: int) -> bool:
        age_s = self._clock.monotonic() - self._written_at
        if self._rhythm.checkpoint_steps:
            by_plan = step % self._rhythm.checkpoint_steps == 0
        else:
            by_plan = step % self._epoch_steps == 0 and age_s >= self._rhythm.spacing_s and not self._writer.busy
        return by_plan or (age_s >= self._rhythm.longest_s and not self._writer.busy)
