"""One consumer's view of its group in Redis: read, claim, acknowledge, give back, keep alive."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from esper_core.bus import RetryPolicy
from oona import scripts
from oona.entries import Entry, to_entry
from oona.layout import Layout, Place
from oona.redis_link import redis_errors

RELEASED_IDLE_MS: Final = 7 * 24 * 3600 * 1000
PAGE: Final = 256


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that this consumer now holds.

    Attributes
    ----------
    place : Place
        Where it lies.
    entry : Entry
        The message.
    deliveries : int
        How often it was delivered from this place, this time included.
    claimed : bool
        Whether it was taken over.
    """

    place: Place
    entry: Entry
    deliveries: int
    claimed: bool


class GroupMember:
    """A consumer in a group; commands go through the pool, blocking reads through a connection that is given.

    Parameters
    ----------
    pool : Redis
        Connections for short commands.
    layout : Layout
        Names of keys.
    group, consumer : str
        Group as it is named in Redis, and consumer.
    retry : RetryPolicy
        Rules of redelivery.
    """

    def __init__(self, pool: Any, layout: Layout, group: str, consumer: str, retry: RetryPolicy) -> None:
        self._redis = pool
        self._layout = layout
        self.group = group
        self.consumer = consumer
        self._retry = retry
        self._give_back = pool.register_script(scripts.GIVE_BACK)
        self._promote = pool.register_script(scripts.PROMOTE)

    async def join(self, streams: Iterable[str]) -> None:
        """Make the group on these logical streams, from their beginning, and set free what this consumer once held.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        for logical in streams:
            for key in self._keys(logical):
                await self._create(key)
        await self.release(streams)

    async def release(self, streams: Iterable[str]) -> None:
        """Let others claim at once what this consumer holds."""
        for logical in streams:
            for key in self._keys(logical):
                with redis_errors():
                    held = await self._redis.xpending_range(key, self.group, "-", "+", PAGE, self.consumer)
                    ids = [item["message_id"] for item in held]
                    if ids:
                        await self._redis.xclaim(
                            key, self.group, self.consumer, 0, ids, idle=RELEASED_IDLE_MS, justid=True
                        )

    async def read(self, connection: Any, streams: Sequence[str], count: int, block_ms: int | None) -> list[Taken]:
        """Take new messages of logical streams; None for `block_ms` does not wait.

        Raises
        ------
        UnavailableError
            If Redis does not answer, or has lost the group.
        """
        places = {self._key(logical, again): (logical, again) for logical in streams for again in (False, True)}
        with redis_errors():
            found = await connection.xreadgroup(
                self.group, self.consumer, dict.fromkeys(places, ">"), count=count, block=block_ms
            )
        taken = []
        for key, entries in found or ():
            logical, again = places[key.decode()]
            taken += [self._taken(logical, again, entry_id, fields) for entry_id, fields in entries]
        return taken

    async def claim(self, logical: str, min_idle_ms: int, count: int) -> tuple[list[Taken], int]:
        """Take over what no consumer has shown a sign of for a time.

        Returns
        -------
        list of Taken, int
            What is now this consumer's, and how many had been trimmed away meanwhile.
        """
        taken: list[Taken] = []
        trimmed = 0
        for again in (False, True):
            key = self._key(logical, again)
            with redis_errors():
                _, entries, gone = await self._redis.xautoclaim(
                    key, self.group, self.consumer, min_idle_ms, "0-0", count=count
                )
                trimmed += len(gone)
                for entry_id, fields in entries:
                    deliveries = await self._deliveries(key, entry_id)
                    taken.append(self._taken(logical, again, entry_id, fields, deliveries))
        return taken, trimmed

    async def ack(self, places: Sequence[Place]) -> None:
        """Acknowledge; what came again is deleted as well, since nobody else reads it."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for place in places:
                    key = place.key(self._layout, self.group)
                    pipe.xack(key, self.group, place.entry_id)
                    if place.again:
                        pipe.xdel(key, place.entry_id)
                await pipe.execute()

    async def give_back(self, place: Place, reason: str, *, permanent: bool) -> str:
        """Bring a message back later for this group, or bury it; return "delayed", "buried", "trimmed" or "gone"."""
        logical = place.logical
        keys = [
            place.key(self._layout, self.group),
            self._layout.delayed(logical, self.group),
            self._layout.bodies(logical, self.group),
            self._layout.dead_letters,
        ]
        arguments = [self.group, place.entry_id, self.consumer, _now_ms(), int(self._retry.first_delay_s * 1000)]
        arguments += [int(self._retry.longest_delay_s * 1000), self._retry.max_attempts, int(permanent), reason]
        arguments += [logical, int(place.again)]
        with redis_errors():
            became: bytes = await self._give_back(keys=keys, args=arguments)
        return became.decode()

    async def promote(self, streams: Sequence[str]) -> float:
        """Make due retries readable; return the seconds until the next one, infinity when none waits."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for logical in streams:
                    keys = [
                        self._layout.delayed(logical, self.group),
                        self._layout.bodies(logical, self.group),
                        self._layout.again(logical, self.group),
                    ]
                    await self._promote(keys=keys, args=[_now_ms(), PAGE], client=pipe)
                following = [float(answer) for answer in await pipe.execute()]
        due_ms = min((moment for moment in following if moment >= 0), default=math.inf)
        return max(0.0, due_ms / 1000 - time.time())

    async def keep_alive(self, places: Iterable[Place]) -> None:
        """Show that deliveries are still being handled, so that nobody claims them."""
        by_key: dict[str, list[str]] = {}
        for place in places:
            by_key.setdefault(place.key(self._layout, self.group), []).append(place.entry_id)
        with redis_errors():
            for key, ids in by_key.items():
                await self._redis.xclaim(key, self.group, self.consumer, 0, ids, justid=True)

    async def _create(self, key: str) -> None:
        try:
            with redis_errors():
                await self._redis.xgroup_create(key, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _deliveries(self, key: str, entry_id: bytes) -> int:
        held = await self._redis.xpending_range(key, self.group, entry_id, entry_id, 1)
        return int(held[0]["times_delivered"]) if held else 1

    def _taken(
        self, logical: str, again: bool, entry_id: bytes, fields: dict[bytes, bytes], deliveries: int = 0
    ) -> Taken:
        entry = to_entry(entry_id, fields)
        return Taken(Place(logical, entry.entry_id, again), entry, max(1, deliveries), deliveries > 0)

    def _key(self, logical: str, again: bool) -> str:
        return self._layout.again(logical, self.group) if again else self._layout.stream(logical)

    def _keys(self, logical: str) -> tuple[str, str]:
        return self._key(logical, False), self._key(logical, True)


def _now_ms() -> int:
    """Wall time: retries outlive this process and this machine's monotonic clock."""
    return int(time.time() * 1000)
