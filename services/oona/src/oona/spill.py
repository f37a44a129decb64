"""The local journal that takes CRITICAL messages while Redis is away: bounded, durable, drained afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from esper_core import leyline
from esper_core.errors import ResourceExhaustedError
from esper_core.journal import JournalWriter, read_journal

Publish = Callable[[Sequence[leyline.BusEnvelope]], Awaitable[None]]


class Spill:
    """CRITICAL envelopes that wait for Redis.

    Parameters
    ----------
    path : Path
        The journal; what an earlier life left there still waits.
    max_messages : int
        Most messages that it takes.
    """

    def __init__(self, path: Path, max_messages: int) -> None:
        self._journal = JournalWriter(path)
        self._max = max_messages
        self._lock = asyncio.Lock()
        self.waiting = len(read_journal(path).records)

    async def add(self, envelope: leyline.BusEnvelope) -> None:
        """Take an envelope; durable on return.

        Raises
        ------
        ResourceExhaustedError
            If the journal is full.
        StorageError
            If the disk refuses.
        """
        async with self._lock:
            if self.waiting >= self._max:
                raise ResourceExhaustedError(
                    f"Redis is away and the journal already holds {self.waiting} CRITICAL messages.",
                    details={"reason": "spill_full"},
                    retry_after_s=1.0,
                )
            await asyncio.to_thread(self._journal.append, envelope.SerializeToString(deterministic=True))
            self.waiting += 1

    async def drain(self, publish: Publish) -> int:
        """Publish what waits and forget it; return how many that were.

        A crash in between publishes them again, which their ids make harmless.

        Raises
        ------
        UnavailableError
            From `publish`; then everything still waits.
        """
        async with self._lock:
            if not self.waiting:
                return 0
            payloads = read_journal(self._journal.path).payloads
            await publish([leyline.BusEnvelope.FromString(payload) for payload in payloads])
            await asyncio.to_thread(self._journal.rewrite, lambda records: [])
            self.waiting = 0
            return len(payloads)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()
