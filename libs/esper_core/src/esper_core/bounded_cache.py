"""A cache that is bounded, safe across threads, and can say how it did lately.

What it keeps are immutable things addressed by content, so that forgetting one costs time and never truth.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from esper_core.clocks import SYSTEM_CLOCK, Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How a cache stands, and what happened in its window.

    Attributes
    ----------
    size : int
        Entries now.
    weight : int
        What the entries weigh together.
    hits, misses, evictions : int
        Events of the last `window_s` seconds.
    """

    size: int
    weight: int
    hits: int
    misses: int
    evictions: int
    window_s: float

    @property
    def hit_rate(self) -> float | None:
        """Share of the look-ups of the window that found something; None when there were none."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


@dataclass(slots=True)
class _Second:
    """What happened in one second of the clock."""

    at: int
    hits: int = 0
    misses: int = 0
    evictions: int = 0


class BoundedCache(Generic[K, V]):
    """Keeps the entries that were used last, up to a weight. Safe across threads.

    Parameters
    ----------
    limit : int
        Most that all entries may weigh together; the newest entry stays even when it alone is heavier.
    weigh : callable, optional
        Weight of a value, 1 each when left out.
    window_s : float
        Span of the statistics; they take one small record per second at most.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        limit: int,
        *,
        weigh: Callable[[V], int] = lambda value: 1,
        window_s: float = 300.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._limit = limit
        self._weigh = weigh
        self._window_s = window_s
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._seconds: deque[_Second] = deque()

    def get(self, key: K) -> V | None:
        """Return an entry and count the look-up."""
        with self._lock:
            value = self._entries.get(key)
            second = self._second()
            if value is None:
                second.misses += 1
                return None
            second.hits += 1
            self._entries.move_to_end(key)
            return value

    def peek(self, key: K) -> V | None:
        """Return an entry without counting or refreshing it."""
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, value: V) -> int:
        """Keep an entry; return how many others had to go for it."""
        with self._lock:
            self._take_out(key)
            self._entries[key] = value
            self._weight += self._weigh(value)
            evicted = 0
            while self._weight > self._limit and len(self._entries) > 1:
                self._take_out(next(iter(self._entries)))
                evicted += 1
            self._second().evictions += evicted
            return evicted

    def drop(self, unwanted: Callable[[K, V], bool]) -> int:
        """Forget the entries for which a predicate holds; return their number."""
        with self._lock:
            doomed = [key for key, value in self._entries.items() if unwanted(key, value)]
            for key in doomed:
                self._take_out(key)
            return len(doomed)

    def stats(self) -> CacheStats:
        """Say how the cache stands and how it did in its window."""
        with self._lock:
            self._second()
            return CacheStats(
                size=len(self._entries),
                weight=self._weight,
                hits=sum(second.hits for second in self._seconds),
                misses=sum(second.misses for second in self._seconds),
                evictions=sum(second.evictions for second in self._seconds),
                window_s=self._window_s,
            )

    def __len__(self) -> int:
        """Return the number of entries."""
        with self._lock:
            return len(self._entries)

    def _take_out(self, key: K) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)

    def _second(self) -> _Second:
        """Return the record of the present second; those that have left the window are dropped."""
        now = int(self._clock.monotonic())
        while self._seconds and self._seconds[0].at <= now - self._window_s:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(_Second(now))
        return self._seconds[-1]
