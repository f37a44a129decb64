"""A few child processes, started when needed, replaced when killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from esper_core.worker.child import Call, ChildProcess


class ChildPool:
    """Children of one worker; lives on the worker's loop.

    Parameters
    ----------
    name : str
        Prefix of the children's names.
    size : int
        Most children at a time.
    preload : Sequence[str]
        Modules that each child imports at start.
    """

    def __init__(self, name: str, size: int, preload: Sequence[str]) -> None:
        self._name = name
        self._size = size
        self._preload = tuple(preload)
        self._slots = asyncio.Semaphore(size)
        self._idle: list[ChildProcess] = []
        self._busy: set[ChildProcess] = set()
        # One thread per child waits for its reply, one more each may start its replacement.
        self._threads = ThreadPoolExecutor(max_workers=2 * size, thread_name_prefix=f"{name}-child")
        self._replacements: set[asyncio.Task[None]] = set()
        self._closed = False
        self.replaced = 0

    @property
    def alive(self) -> int:
        """Children that live."""
        return len(self._idle) + len(self._busy)

    async def run(self, call: Call) -> Any:
        """Run a call in a child; a child that did not survive it is replaced."""
        async with self._slots:
            child = self._take_idle() or await self._start()
            self._busy.add(child)
            try:
                return await child.run(call, self._threads)
            finally:
                self._busy.discard(child)
                self._put_away(child)

    async def warm(self) -> None:
        """Start all children now, so that no deadline pays for it."""
        while self.alive < self._size:
            self._idle.append(await self._start())

    async def close(self) -> None:
        """Kill all children."""
        self._closed = True
        await asyncio.gather(*self._replacements, return_exceptions=True)
        for child in self._idle:
            child.close()
        for child in self._busy:
            child.kill()
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def kill_all(self) -> None:
        """Kill every child from any thread: the last resort when the loop does not answer."""
        for child in [*self._idle, *self._busy]:
            child.kill()

    def _take_idle(self) -> ChildProcess | None:
        while self._idle:
            child = self._idle.pop()
            if child.usable:
                return child
            child.close()
            self.replaced += 1
        return None

    async def _start(self) -> ChildProcess:
        starting = asyncio.get_running_loop().run_in_executor(
            self._threads, ChildProcess, f"{self._name}-child", self._preload
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda future: future.result().close())
            raise

    def _put_away(self, child: ChildProcess) -> None:
        if child.usable and not self._closed:
            self._idle.append(child)
            return
        child.close()
        if not self._closed:
            self.replaced += 1
            task = asyncio.get_running_loop().create_task(self._replace())
            self._replacements.add(task)
            task.add_done_callback(self._replacements.discard)

    async def _replace(self) -> None:
        child = await self._start()
        if self._closed or self.alive >= self._size:
            child.close()
        else:
            self._idle.append(child)
