"""One lane of a subscription: reads its streams whenever the consumer has room, claims what is stale."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from oona.group import GroupMember, Taken
from oona.redis_link import MAX_BLOCK_MS
from oona.telling import Teller

MAX_BATCH: Final = 64


class Lane:
    """The emergency lane, or that of all other streams.

    Parameters
    ----------
    member : GroupMember
        The consumer in its group.
    streams : Sequence of str
        Logical streams.
    types : frozenset of int
        Message types that are wanted; empty means all.
    window : int
        Deliveries of this lane that may be unanswered.
    hold : callable
        Told of everything that this consumer now holds, so that it is kept from others' claims.
    deliver : callable
        Told when there is room for one of these.
    teller : Teller
        Hears of claims and of what was trimmed.
    claim_idle_ms : int
        Age of silence from which a delivery is claimed.
    """

    def __init__(
        self,
        member: GroupMember,
        streams: Sequence[str],
        types: frozenset[int],
        window: int,
        hold: Callable[[Taken], None],
        deliver: Callable[[Taken], None],
        teller: Teller,
        claim_idle_ms: int,
    ) -> None:
        self._member = member
        self._streams = tuple(streams)
        self._types = types
        self._hold = hold
        self._deliver = deliver
        self._batch = min(MAX_BATCH, window)
        self._teller = teller
        self._claim_idle_ms = claim_idle_ms
        self._claim_at = 0.0
        self.room = asyncio.Semaphore(window)
        self.empty = asyncio.Event()

    async def run(self, connection: Any, after: asyncio.Event | None = None) -> None:
        """Deliver until cancelled.

        Parameters
        ----------
        connection : Redis
            A connection of its own; closed at the end, because a blocking read may be cut off on it.
        after : asyncio.Event, optional
            Read only while this is set: the emergency lane is empty.

        Raises
        ------
        UnavailableError
            If Redis goes away.
        """
        async with aclosing(connection):
            while True:
                await self.room.acquire()
                batch = await self._next(connection, after)
                for taken in batch:
                    self._hold(taken)
                for number, taken in enumerate(batch):
                    if number:
                        await self.room.acquire()
                    self._deliver(taken)

    async def _next(self, connection: Any, after: asyncio.Event | None) -> list[Taken]:
        """Wait for messages that are wanted; at least one is returned."""
        while True:
            self.empty.clear()
            if after is not None:
                await after.wait()
            taken = await self._claimed() or await self._read(connection, after)
            wanted = await self._wanted(taken)
            if wanted:
                return wanted

    async def _read(self, connection: Any, after: asyncio.Event | None) -> list[Taken]:
        if after is None:
            found = await self._member.read(connection, self._streams, self._batch, None)
            if found:
                return found
            self.empty.set()
        return await self._member.read(connection, self._streams, self._batch, self._wait_ms())

    def _wait_ms(self) -> int:
        """Return how long a read may wait: until the next claim, never 0, which would mean for ever."""
        until_claim_s = self._claim_at - asyncio.get_running_loop().time()
        return max(1, min(MAX_BLOCK_MS, int(until_claim_s * 1000) + 1))

    async def _claimed(self) -> list[Taken]:
        now = asyncio.get_running_loop().time()
        if now < self._claim_at:
            return []
        taken: list[Taken] = []
        for logical in self._streams:
            found, trimmed = await self._member.claim(logical, self._claim_idle_ms, self._batch)
            taken += found
            if found:
                self._teller.instruments.count("oona.claimed_total", len(found), stream=logical)
            if trimmed:
                self._teller.lost_by_trim(logical, trimmed)
        if not taken:
            self._claim_at = now + self._claim_idle_ms / 3000
        return taken

    async def _wanted(self, taken: list[Taken]) -> list[Taken]:
        """Acknowledge what this group does not care for; return the rest."""
        if not self._types:
            return taken
        unwanted = [item.place for item in taken if item.entry.message_type not in self._types]
        if unwanted:
            await self._member.ack(unwanted)
        return [item for item in taken if item.entry.message_type in self._types]
