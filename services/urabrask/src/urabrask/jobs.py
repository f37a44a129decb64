"""What the assessor does now and has done lately."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.ids import new_ulid

State = Literal["queued", "running", "done", "failed"]


@dataclass(slots=True, eq=False)
class Job:
    """One request; `ended_at` is None while it lives, `message` says why it failed."""

    job_id: str
    blueprint_id: str
    started_at: datetime
    state: State = "queued"
    ended_at: datetime | None = None
    message: str = ""

    def begin(self) -> None:
        """Note that its work has begun."""
        self.state = "running"


class JobList:
    """Living jobs, and the last finished ones.

    Parameters
    ----------
    kept : int
        Finished jobs that are remembered.
    clock : Clock
        Source of time.
    """

    def __init__(self, kept: int = 256, clock: Clock = SYSTEM_CLOCK) -> None:
        self._jobs: dict[str, Job] = {}
        self._kept = kept
        self._clock = clock

    @property
    def active(self) -> int:
        """Jobs that are queued or running."""
        return sum(job.ended_at is None for job in self._jobs.values())

    @contextmanager
    def follow(self, blueprint_id: str) -> Iterator[Job]:
        """Keep a job for the block; an exception makes it a failed one."""
        job = Job(new_ulid(self._clock), blueprint_id, self._clock.wall())
        self._jobs[job.job_id] = job
        try:
            yield job
        except BaseException as error:
            job.message = error.message if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"
            self._end(job, "failed")
            raise
        self._end(job, "done")

    def newest(self, limit: int) -> list[Job]:
        """Return at most `limit` jobs, newest first."""
        return list(reversed(self._jobs.values()))[:limit]

    def _end(self, job: Job, state: State) -> None:
        job.state, job.ended_at = state, self._clock.wall()
        finished = [one.job_id for one in self._jobs.values() if one.ended_at is not None]
        for job_id in finished[: max(0, len(finished) - self._kept)]:
            del self._jobs[job_id]
