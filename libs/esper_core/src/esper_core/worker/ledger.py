"""Which jobs exist and what became of them; safe across threads, and the counters add up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from esper_core.errors import ResourceExhaustedError, StateConflictError
from esper_core.worker.jobs import JobHandle, Outcome, WorkerStats

T = TypeVar("T")

_COUNTED: Final = ("submitted", "refused", "completed", "failed", "timed_out", "cancelled", "crashed")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """A job inside the worker: what to do, for whom, and until when."""

    handle: JobHandle[T]
    work: Callable[[], Awaitable[T]]
    submitted_s: float
    timeout_s: float

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, which started to run when the job was submitted."""
        return max(0.0, self.submitted_s + self.timeout_s - time.monotonic())


class JobLedger:
    """The jobs of one worker.

    Parameters
    ----------
    owner : str
        The worker's name, for messages.
    capacity : int
        Most jobs that may exist at a time, running and waiting together.
    """

    def __init__(self, owner: str, capacity: int) -> None:
        self._owner = owner
        self._capacity = capacity
        self._lock = threading.Lock()
        self._jobs: set[Job[Any]] = set()
        self._running: set[Job[Any]] = set()
        self._tally: Counter[str] = Counter()
        self._queue_wait_max_s = 0.0
        self._closed = False
        self.stuck = 0

    def enter(self, job: Job[Any]) -> None:
        """Take a job in.

        Raises
        ------
        ResourceExhaustedError
            If there are too many.
        StateConflictError
            If the worker is shut down.
        """
        with self._lock:
            if self._closed:
                raise StateConflictError(f"{self._owner} is shut down and takes no more jobs.")
            if len(self._jobs) >= self._capacity:
                self._tally["refused"] += 1
                raise ResourceExhaustedError(f"{self._owner} holds {self._capacity} jobs already.", retry_after_s=1.0)
            self._tally["submitted"] += 1
            self._jobs.add(job)

    def started(self, job: Job[Any]) -> None:
        """Note that a job left the queue."""
        with self._lock:
            self._running.add(job)
            self._queue_wait_max_s = max(self._queue_wait_max_s, time.monotonic() - job.submitted_s)

    def end(self, job: Job[Any], outcome: Outcome) -> bool:
        """Note a job's outcome; False when it had one before, which then stands."""
        with self._lock:
            if job not in self._jobs:
                return False
            self._jobs.discard(job)
            self._running.discard(job)
            self._tally[outcome] += 1
            return True

    def close(self) -> list[Job[Any]]:
        """Take no more jobs; return those that have not ended."""
        with self._lock:
            self._closed = True
            return list(self._jobs)

    def stats(self, *, children_alive: int, children_replaced: int) -> WorkerStats:
        """Return all counters, taken at one moment."""
        with self._lock:
            return WorkerStats(
                **{name: self._tally[name] for name in _COUNTED},
                queued=len(self._jobs) - len(self._running),
                running=len(self._running),
                stuck=self.stuck,
                children_alive=children_alive,
                children_replaced=children_replaced,
                queue_wait_max_s=self._queue_wait_max_s,
            )
