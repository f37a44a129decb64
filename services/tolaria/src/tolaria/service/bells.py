"""A bell for each run, so that whoever follows its events need not look all the time."""

from __future__ import annotations

import asyncio


class Bells:
    """Wakes those who wait for news of a run. Lives on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def ring(self, run_id: str) -> None:
        """Wake everybody who waits now."""
        for event in self._waiting.pop(run_id, set()):
            event.set()

    async def wait(self, run_id: str, timeout_s: float) -> bool:
        """Wait until the bell rings; False when it did not within the time."""
        event = asyncio.Event()
        self._waiting.setdefault(run_id, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            self._forget(run_id, event)
        return True

    def _forget(self, run_id: str, event: asyncio.Event) -> None:
        waiting = self._waiting.get(run_id, set())
        waiting.discard(event)
        if not waiting:
            self._waiting.pop(run_id, None)
