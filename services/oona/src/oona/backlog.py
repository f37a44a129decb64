"""How far groups are behind: measured from Redis, for back-pressure, metrics, listing and trimming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from oona.layout import Layout
from oona.redis_link import redis_errors

_NO_KEY: Final = "no such key"
_COUNT_UP_TO: Final = 10_000


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group on one stream.

    Attributes
    ----------
    name : str
        Name in Redis.
    pending : int
        Delivered and not acknowledged.
    lag : int
        Not yet delivered, retries included.
    consumers : int
        Consumers known.
    last_id : str
        Newest entry that was delivered.
    idle_s : float
        Seconds since a consumer last asked; 0 when none ever did.
    """

    name: str
    pending: int
    lag: int
    consumers: int
    last_id: str
    idle_s: float

    @property
    def backlog(self) -> int:
        """Lag and pending together."""
        return self.lag + self.pending


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream with its groups."""

    logical: str
    name: str
    length: int
    groups: tuple[GroupState, ...]

    def backlog(self, abandoned_s: float) -> int:
        """Return the backlog of the slowest group that is not abandoned."""
        return max((group.backlog for group in self.groups if group.idle_s < abandoned_s), default=0)


class Backlogs:
    """Measures streams.

    Parameters
    ----------
    pool : Redis
        Connections.
    layout : Layout
        Names of keys.
    """

    def __init__(self, pool: Any, layout: Layout) -> None:
        self._redis = pool
        self._layout = layout

    async def streams(self) -> list[StreamState]:
        """Measure every stream.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        return [await self.stream(logical) for logical in self._layout.names]

    async def stream(self, logical: str) -> StreamState:
        """Measure one stream."""
        name = self._layout.stream(logical)
        with redis_errors():
            length = await self._redis.xlen(name)
            groups = [await self._group(logical, name, item) for item in await self._groups(name)]
        return StreamState(logical, name, length, tuple(groups))

    async def dead_letters(self) -> int:
        """Return how many dead letters there are."""
        with redis_errors():
            return int(await self._redis.xlen(self._layout.dead_letters))

    async def _groups(self, name: str) -> list[dict[str, Any]]:
        try:
            groups: list[dict[str, Any]] = await self._redis.xinfo_groups(name)
        except ResponseError as error:
            if _NO_KEY in str(error):
                return []
            raise
        return groups

    async def _group(self, logical: str, stream: str, item: dict[str, Any]) -> GroupState:
        name = item["name"].decode()
        last_id = item["last-delivered-id"].decode()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xlen(self._layout.again(logical, name))
            pipe.zcard(self._layout.delayed(logical, name))
            pipe.xinfo_consumers(stream, name)
            again, delayed, consumers = await pipe.execute()
        lag = item["lag"] if item.get("lag") is not None else await self._counted(stream, last_id)
        idle_ms = min((consumer["idle"] for consumer in consumers), default=0)
        return GroupState(name, item["pending"], lag + again + delayed, len(consumers), last_id, idle_ms / 1000)

    async def _counted(self, stream: str, last_id: str) -> int:
        """Count what Redis itself cannot tell after entries were deleted."""
        return len(await self._redis.xrange(stream, f"({last_id}", "+", _COUNT_UP_TO))
