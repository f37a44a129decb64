"""What waits to be published: bounded, the most urgent first, with a room for CRITICAL that nothing else can fill."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from esper_core import leyline
from esper_core.errors import ResourceExhaustedError

CRITICAL_ROOM: Final = 1024
MAX_BATCH: Final = 128
MAX_BATCH_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """An acknowledged publication.

    Attributes
    ----------
    message_id : str
        Id of the message.
    stream : str
        Logical stream that it rides.
    spilled : bool
        True when it waits in the broker's journal because Redis is away (CRITICAL only).
    """

    message_id: str
    stream: str
    spilled: bool = False


@dataclass(order=True, slots=True)
class Waiting:
    """One envelope that waits; `outcome` is None where nobody waits for it."""

    rank: tuple[int, int]
    envelope: leyline.BusEnvelope = field(compare=False)
    outcome: asyncio.Future[Receipt] | None = field(compare=False, default=None)

    @property
    def given_up(self) -> bool:
        """Whether its publisher no longer waits."""
        return self.outcome is not None and self.outcome.done()


class Outbox:
    """The buffer in front of the broker; lives in one event loop.

    Parameters
    ----------
    capacity : int
        Most envelopes below CRITICAL that wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heap: list[Waiting] = []
        self._order = count()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, envelope: leyline.BusEnvelope, outcome: asyncio.Future[Receipt] | None) -> None:
        """Take in an envelope.

        Raises
        ------
        ResourceExhaustedError
            If there is no room.
        """
        critical = envelope.priority == leyline.MESSAGE_PRIORITY_CRITICAL
        room = self._capacity + (CRITICAL_ROOM if critical else 0)
        if len(self._heap) >= room:
            self._heap = [item for item in self._heap if not item.given_up]
            heapq.heapify(self._heap)
        if len(self._heap) >= room:
            raise ResourceExhaustedError(
                f"{len(self._heap)} messages wait for the bus and there is no room for more. "
                "Publish again when Oona answers.",
                details={"waiting": str(len(self._heap))},
                retry_after_s=1.0,
            )
        self._push(Waiting((-envelope.priority, next(self._order)), envelope, outcome))

    def put_back(self, items: Iterable[Waiting]) -> None:
        """Return envelopes to the places they had."""
        for item in items:
            self._push(item)

    async def take(self) -> list[Waiting]:
        """Wait for envelopes and take a batch, the most urgent first."""
        while True:
            await self._filled.wait()
            batch = self._batch()
            if batch:
                return batch

    def drop_all(self) -> list[Waiting]:
        """Take everything out, at the end."""
        items, self._heap = sorted(self._heap), []
        self._filled.clear()
        return items

    def _push(self, item: Waiting) -> None:
        heapq.heappush(self._heap, item)
        self._filled.set()

    def _batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._heap and len(batch) < MAX_BATCH:
            size += len(self._heap[0].envelope.payload)
            if batch and size > MAX_BATCH_BYTES:
                break
            item = heapq.heappop(self._heap)
            if not item.given_up:
                batch.append(item)
        if not self._heap:
            self._filled.clear()
        return batch
