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
        """Measure every stream, in two round trips.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        logicals = list(self._layout.names)
        names = [self._layout.stream(logical) for logical in logicals]
        with redis_errors():
            lengths, groups = await self._overview(names)
            found = [(logical, group) for logical, items in zip(logicals, groups, strict=True) for group in items]
            states = await self._measured(found)
        by_stream: dict[str, list[GroupState]] = {logical: [] for logical in logicals}
        for (logical, _), state in zip(found, states, strict=True):
            by_stream[logical].append(state)
        return [
            StreamState(logical, name, length, tuple(by_stream[logical]))
            for logical, name, length in zip(logicals, names, lengths, strict=True)
        ]

    async def dead_letters(self) -> int:
        """Return how many dead letters there are."""
        with redis_errors():
            return int(await self._redis.xlen(self._layout.dead_letters))

    async def _overview(self, names: list[str]) -> tuple[list[int], list[list[dict[str, Any]]]]:
        """Return the length and the groups of each stream; a stream that is not there yet has none."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.xlen(name)
                pipe.xinfo_groups(name)
            answers = await pipe.execute(raise_on_error=False)
        groups = [[] if _is_missing(answer) else answer for answer in answers[1::2]]
        return answers[0::2], groups

    async def _measured(self, found: list[tuple[str, dict[str, Any]]]) -> list[GroupState]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for logical, item in found:
                name = item["name"].decode()
                pipe.xlen(self._layout.again(logical, name))
                pipe.zcard(self._layout.delayed(logical, name))
                pipe.xinfo_consumers(self._layout.stream(logical), name)
            answers = await pipe.execute()
        return [
            await self._state(logical, item, *answers[3 * number : 3 * number + 3])
            for number, (logical, item) in enumerate(found)
        ]

    async def _state(
        self, logical: str, item: dict[str, Any], again: int, delayed: int, consumers: list[dict[str, Any]]
    ) -> GroupState:
        last_id = item["last-delivered-id"].decode()
        lag = item.get("lag")
        if lag is None:
            lag = await self._counted(self._layout.stream(logical), last_id)
        idle_ms = min((consumer["idle"] for consumer in consumers), default=0)
        name = item["name"].decode()
        return GroupState(name, item["pending"], lag + again + delayed, len(consumers), last_id, idle_ms / 1000)

    async def _counted(self, stream: str, last_id: str) -> int:
        """Count what Redis itself cannot tell after entries were deleted."""
        return len(await self._redis.xrange(stream, f"({last_id}", "+", _COUNT_UP_TO))


def _is_missing(answer: object) -> bool:
    """Tell whether a stream is not there; any other error is raised."""
    if not isinstance(answer, Exception):
        return False
    if isinstance(answer, ResponseError) and _NO_KEY in str(answer):
        return True
    raise answer
