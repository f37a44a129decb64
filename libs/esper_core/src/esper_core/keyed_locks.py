"""One lock per key, so that two who want the same thing do not fetch it twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Held:
    """A lock with the number of those who hold it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyedLocks:
    """Locks by key in one event loop; one that nobody uses is forgotten.

    Parameters
    ----------
    observe : callable, optional
        Takes how long somebody waited, in ms.
    """

    def __init__(self, observe: Callable[[float], None] = lambda waited_ms: None) -> None:
        self._observe = observe
        self._held: dict[str, _Held] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key for the block."""
        held = self._held.setdefault(key, _Held())
        held.users += 1
        began = time.perf_counter()
        try:
            async with held.lock:
                self._observe((time.perf_counter() - began) * 1000)
                yield
        finally:
            held.users -= 1
            if not held.users:
                self._held.pop(key, None)

    def __len__(self) -> int:
        """Return the number of keys that somebody holds or waits for."""
        return len(self._held)
