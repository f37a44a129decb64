"""What a caller of the worker holds: a handle per job, and counters that add up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from esper_core.errors import TimeoutExceededError

T = TypeVar("T")

Outcome = Literal["completed", "failed", "timed_out", "cancelled", "crashed"]


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counters since start; `submitted` is the sum of the outcomes plus `queued` plus `running`.

    `stuck` counts coroutines that ignored their cancellation and still hold a slot.
    """

    submitted: int = 0
    refused: int = 0
    queued: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    crashed: int = 0
    stuck: int = 0
    children_alive: int = 0
    children_replaced: int = 0
    queue_wait_max_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """How a shutdown went: jobs that were cancelled by it, and whether everything stopped in time."""

    cancelled: int
    stuck: int
    clean: bool


class JobHandle(Generic[T]):
    """A submitted job: wait for it in a thread with `result`, or await it in any loop."""

    def __init__(self, name: str, cancel: Callable[[], None]) -> None:
        self.name = name
        self._future: Future[T] = Future()
        # Marked as running at once, so that nobody can cancel the future without cancelling the work.
        self._future.set_running_or_notify_cancel()
        self._cancel = cancel

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the job in this thread; never call it from the worker's own loop.

        Raises
        ------
        TimeoutExceededError
            If the job missed its deadline, or is not done within `timeout_s`; only the former stops the job.
        OperationCancelledError
            If it was cancelled.
        WorkerCrashedError
            If its child process died.
        """
        try:
            return self._future.result(timeout_s)
        except TimeoutError as error:
            if self._future.done():
                raise
            raise TimeoutExceededError(f"{self.name} is not done after {timeout_s} s; it goes on.") from error

    def done(self) -> bool:
        """Tell whether the job has ended, in whatever way."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop the job; its result becomes OperationCancelledError once the work has stopped."""
        self._cancel()

    def when_done(self, callback: Callable[[JobHandle[T]], object]) -> None:
        """Call back when the job has ended, from the worker's thread."""
        self._future.add_done_callback(lambda _: callback(self))

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        outcome = asyncio.wrap_future(self._future)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            # Looked at, so that the loop does not report an error that nobody waits for any more.
            outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.cancel()
            raise

    def _resolve(self, value: T) -> None:
        if not self._future.done():
            self._future.set_result(value)

    def _reject(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)
