"""AsyncWorker: bounded concurrency, deadlines that include the wait in the queue, and cancellation that stops the work.

Coroutines are cancelled and awaited. Blocking or computing functions run in child processes, which are killed and
replaced when they overrun. The worker owns a loop in a thread of its own, so it works where no loop runs; give it the
process's loop where grpc.aio is in use, because two such loops in one process break.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from esper_core.errors import OperationCancelledError, StateConflictError
from esper_core.worker.child import Call
from esper_core.worker.driver import JobDriver
from esper_core.worker.jobs import JobHandle, ShutdownReport, WorkerStats
from esper_core.worker.ledger import Job, JobLedger
from esper_core.worker.pool import ChildPool

T = TypeVar("T")


class AsyncWorker:
    """Runs jobs for a whole process. Submit from any thread.

    Parameters
    ----------
    name : str
        Name of thread and children.
    max_concurrency : int
        Jobs that run at a time.
    max_queue : int
        Jobs that may wait; one more is refused.
    max_children : int
        Child processes for blocking jobs.
    preload : Sequence[str]
        Modules that each child imports at start.
    cancel_grace_s : float
        How long a cancelled coroutine may take to end before it is reported as stuck.
    loop : asyncio.AbstractEventLoop, optional
        Run on this loop instead of an own one; then end with `aclose`.
    """

    def __init__(
        self,
        name: str = "worker",
        *,
        max_concurrency: int = 8,
        max_queue: int = 1024,
        max_children: int = 1,
        preload: Sequence[str] = (),
        cancel_grace_s: float = 1.0,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if min(max_concurrency, max_children) < 1 or max_queue < 0:
            raise ValueError("max_concurrency and max_children must be at least 1, max_queue at least 0")
        self._name = name
        self._grace_s = cancel_grace_s
        self._loop = loop or asyncio.new_event_loop()
        self._ledger = JobLedger(name, max_concurrency + max_queue)
        self._driver = JobDriver(self._loop, self._ledger, concurrency=max_concurrency, grace_s=cancel_grace_s)
        self._children = ChildPool(name, max_children, preload)
        self._leave = asyncio.Event()
        self._thread: threading.Thread | None = None
        if loop is None:
            self._thread = threading.Thread(target=self._own_loop, name=name, daemon=True)
            self._thread.start()

    def submit(
        self, function: Callable[..., Awaitable[T]], *arguments: Any, timeout_s: float, name: str = ""
    ) -> JobHandle[T]:
        """Run `function(*arguments)`, a coroutine function that never blocks.

        Parameters
        ----------
        function : callable
            Coroutine function.
        *arguments
            Its arguments.
        timeout_s : float
            Seconds from now, the wait in the queue included.
        name : str
            Name for messages; the function's own otherwise.

        Raises
        ------
        ResourceExhaustedError
            If the queue is full.
        StateConflictError
            If the worker is shut down.
        """
        return self._enter(lambda: function(*arguments), name or _name_of(function), timeout_s)

    def submit_blocking(
        self, function: Callable[..., T], *arguments: Any, timeout_s: float, name: str = "", **keywords: Any
    ) -> JobHandle[T]:
        """Run a blocking or computing function of an importable module in a child process.

        Arguments, result and errors have to be plain data that can cross to another process. At the deadline the child
        is killed, whatever it does.

        Raises
        ------
        ResourceExhaustedError
            If the queue is full.
        StateConflictError
            If the worker is shut down.
        """
        call = Call(function, arguments, keywords)
        return self._enter(lambda: self._children.run(call), name or _name_of(function), timeout_s)

    def warm_children(self, timeout_s: float = 60.0) -> JobHandle[None]:
        """Start the child processes now, so that the first blocking job does not pay for it."""
        return self.submit(self._children.warm, timeout_s=timeout_s, name="warm_children")

    def stats(self) -> WorkerStats:
        """Return counters that add up."""
        return self._ledger.stats(children_alive=self._children.alive, children_replaced=self._children.replaced)

    def shutdown(self, timeout_s: float = 5.0) -> ShutdownReport:
        """Stop everything within `timeout_s`, from another thread than the worker's; a second call is harmless."""
        if self._thread is None or threading.current_thread() is self._thread:
            raise StateConflictError(f"{self._name} cannot be shut down from its own loop. Await aclose() instead.")
        until = time.monotonic() + timeout_s
        report = self._stop_from_outside(timeout_s) if self._thread.is_alive() else ShutdownReport(0, 0, True)
        self._thread.join(max(0.0, until - time.monotonic()))
        return replace(report, clean=report.clean and not self._thread.is_alive())

    async def aclose(self, timeout_s: float = 5.0) -> ShutdownReport:
        """Stop everything within `timeout_s`, from any loop."""
        if self._loop is not asyncio.get_running_loop():
            return await asyncio.to_thread(self.shutdown, timeout_s)
        report = await self._stop(timeout_s)
        self._leave.set()
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _enter(self, work: Callable[[], Awaitable[T]], name: str, timeout_s: float) -> JobHandle[T]:
        handle: JobHandle[T] = JobHandle(name, lambda: self._driver.cancel(job))
        job = Job(handle, work, time.monotonic(), timeout_s)
        self._ledger.enter(job)
        self._loop.call_soon_threadsafe(self._driver.launch, job)
        return handle

    async def _stop(self, timeout_s: float) -> ShutdownReport:
        jobs = self._ledger.close()
        ended = await self._driver.cancel_all(timeout_s)
        await self._children.close()
        return ShutdownReport(len(jobs), self._ledger.stuck, ended and self._ledger.stuck == 0)

    def _stop_from_outside(self, timeout_s: float) -> ShutdownReport:
        stopping = asyncio.run_coroutine_threadsafe(self._stop(timeout_s * 0.8), self._loop)
        # A blocked loop that is given up here still stops its jobs in order, should it ever come free.
        stopping.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._leave.set))
        try:
            return stopping.result(timeout_s)
        except TimeoutError:
            return self._abandon()

    def _abandon(self) -> ShutdownReport:
        """Give up on a loop that a job blocks: kill the children, fail the jobs, leave the daemon thread behind."""
        self._children.kill_all()
        jobs = self._ledger.close()
        for job in jobs:
            error = OperationCancelledError(f"{job.handle.name} was given up: its worker's loop is blocked.")
            self._driver.settle(job, "cancelled", error)
        return ShutdownReport(len(jobs), len(jobs), False)

    def _own_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _live(self) -> None:
        """Keep the loop until the worker has stopped and what it cancelled has ended, or overran its grace."""
        await self._leave.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=self._grace_s)


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
