"""Seeing jobs through on the worker's loop: wait for a slot, start, stop at the deadline, settle the outcome once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from esper_core.errors import OperationCancelledError, TimeoutExceededError, WorkerCrashedError
from esper_core.worker.jobs import Outcome
from esper_core.worker.ledger import Job, JobLedger

T = TypeVar("T")


class JobDriver:
    """Runs jobs on one loop; every method but `cancel` belongs to that loop's thread.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Where jobs run.
    ledger : JobLedger
        Where outcomes are noted.
    concurrency : int
        Jobs that run at a time.
    grace_s : float
        How long a cancelled coroutine may take to end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ledger: JobLedger, *, concurrency: int, grace_s: float) -> None:
        self._loop = loop
        self._ledger = ledger
        self._slots = asyncio.Semaphore(concurrency)
        self._grace_s = grace_s
        self._tasks: dict[Job[Any], asyncio.Task[None]] = {}

    def launch(self, job: Job[Any]) -> None:
        """Start to look after a job."""
        task = self._loop.create_task(self._drive(job), name=job.handle.name)
        self._tasks[job] = task
        task.add_done_callback(lambda _: self._forget(job))

    def cancel(self, job: Job[Any]) -> None:
        """Stop a job, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_task, job)

    async def cancel_all(self, timeout_s: float) -> bool:
        """Stop all jobs; tell whether they ended in time."""
        tasks = set(self._tasks.values())
        for job in list(self._tasks):
            self._cancel_task(job)
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=timeout_s)
        return not pending

    def settle(self, job: Job[Any], outcome: Outcome, error: BaseException) -> None:
        """End a job with an error, unless it has ended."""
        if self._ledger.end(job, outcome):
            job.handle._reject(error)

    def _cancel_task(self, job: Job[Any]) -> None:
        if job in self._tasks:
            self._tasks[job].cancel()

    def _forget(self, job: Job[Any]) -> None:
        # A task that is cancelled before its first step never enters its body, so the outcome is settled here as well.
        del self._tasks[job]
        self.settle(job, "cancelled", OperationCancelledError(f"{job.handle.name} was cancelled."))

    async def _drive(self, job: Job[T]) -> None:
        work: asyncio.Task[T] | None = None
        try:
            work = await self._start(job)
            if work is not None:
                await asyncio.wait({work}, timeout=job.left_s)
            if work is not None and work.done():
                self._settle_done(job, work)
            else:
                await self._overrun(job, work)
        except asyncio.CancelledError:
            await self._halt(work)
            raise

    async def _start(self, job: Job[T]) -> asyncio.Task[T] | None:
        """Wait for a slot and start the work; None when the deadline passed in the queue."""
        try:
            async with asyncio.timeout(job.left_s):
                await self._slots.acquire()
        except TimeoutError:
            return None
        self._ledger.started(job)
        work = self._loop.create_task(_awaited(job.work), name=f"{job.handle.name}-work")
        # The slot stays taken until the work has really ended, even if it ignores its cancellation.
        work.add_done_callback(lambda _: self._slots.release())
        return work

    async def _overrun(self, job: Job[T], work: asyncio.Task[T] | None) -> None:
        stopped = await self._halt(work)
        where = "in the queue" if work is None else "at work" if stopped else "at work and ignores its cancellation"
        sentence = f"{job.handle.name} missed its deadline of {job.timeout_s} s {where}."
        self.settle(job, "timed_out", TimeoutExceededError(sentence, details={"stopped": str(stopped).lower()}))

    def _settle_done(self, job: Job[T], work: asyncio.Task[T]) -> None:
        if work.cancelled():
            self.settle(job, "cancelled", OperationCancelledError(f"{job.handle.name} cancelled itself."))
            return
        error = work.exception()
        if error is not None:
            self.settle(job, "crashed" if isinstance(error, WorkerCrashedError) else "failed", error)
        elif self._ledger.end(job, "completed"):
            job.handle._resolve(work.result())

    async def _halt(self, work: asyncio.Task[T] | None) -> bool:
        """Cancel the work and wait for its end, but not for ever; tell whether it ended."""
        if work is None or work.done():
            return True
        work.cancel()
        await asyncio.wait({work}, timeout=self._grace_s)
        if not work.done():
            self._ledger.stuck += 1
            work.add_done_callback(self._unstuck)
        return work.done()

    def _unstuck(self, work: asyncio.Task[Any]) -> None:
        self._ledger.stuck -= 1
        if not work.cancelled():
            # Looked at, so that the loop does not report an error that nobody waits for any more.
            work.exception()


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
