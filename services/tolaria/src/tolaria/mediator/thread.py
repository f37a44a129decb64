"""The mediator thread: one asyncio loop that owns every connection of the worker, and ends with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from esper_core.logs import get_logger

_log = get_logger("mediator")


class Part(Protocol):
    """One task of the mediator."""

    name: str

    async def run(self) -> None:
        """Work until cancelled; trouble with a peer is dealt with inside."""
        ...

    async def finish(self) -> None:
        """Deliver what is left before the loop ends; the caller bounds the time."""
        ...


class Mediator:
    """Runs its parts on a loop of its own.

    Parameters
    ----------
    build : callable
        Makes the parts; called on the mediator thread inside its running loop, because channels belong to a loop.
    shutdown_s : float
        Longest wait for the parts to finish.
    on_crash : callable
        Told the name of a part that ended by a defect of ours, and why: without it the run isn't what it says it is.
    """

    def __init__(self, build: PartsFactory, shutdown_s: float, on_crash: Callable[[str, str], None]) -> None:
        self._build = build
        self._on_crash = on_crash
        self._shutdown_s = shutdown_s
        self._thread = threading.Thread(target=self._body, name="mediator", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._ending = asyncio.Event()

    def start(self) -> None:
        """Start the thread and wait until its parts are built, so that they hear everything from now on."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Let the parts deliver what is left, then end the thread; bounded in time."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(2 * self._shutdown_s + 1)
        if self._thread.is_alive():
            _log.error("the mediator did not end in time", waited_s=2 * self._shutdown_s + 1)

    def _body(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            # Training must go on without a mediator; what is lost is told where people look.
            _log.critical("the mediator ended by an error", exc_info=error)
            self._on_crash("mediator", f"{type(error).__name__}: {error}")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        parts = self._build()
        self._ready.set()
        tasks = [asyncio.create_task(self._guarded(part), name=part.name) for part in parts]
        await self._ending.wait()
        try:
            async with asyncio.timeout(self._shutdown_s):
                await asyncio.gather(*(part.finish() for part in parts), return_exceptions=True)
        except TimeoutError:
            _log.warning("not everything could be delivered at the end")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, part: Part) -> None:
        """Keep one part's defect from ending the others, and say so."""
        try:
            await part.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.critical("a part of the mediator ended by an error", part=part.name, exc_info=error)
            self._on_crash(part.name, f"{type(error).__name__}: {error}")


class PartsFactory(Protocol):
    """Makes the parts of a mediator."""

    def __call__(self) -> Sequence[Part]:
        """Return the parts."""
        ...
