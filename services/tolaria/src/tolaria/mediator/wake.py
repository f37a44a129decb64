"""Waking a task of the loop from the training thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Wake:
    """An event of the running loop that another thread may set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def from_thread(self) -> Callable[[], None]:
        """Return what the other thread calls; after the loop has ended it does nothing."""

        def wake() -> None:
            if not self._loop.is_closed() and not self._event.is_set():
                try:
                    self._loop.call_soon_threadsafe(self._event.set)
                except RuntimeError:
                    # The loop was closed between the look and the call: nobody is left to be woken.
                    return

        return wake

    def set(self) -> None:
        """Wake from within the loop."""
        self._event.set()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until woken, or until the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()
