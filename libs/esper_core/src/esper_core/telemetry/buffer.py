"""What waits to be published: bounded, rate limited, and honest about what it had to leave out.

CRITICAL events have a room of their own that nothing else can fill, and no rate limit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.telemetry.builder import Priority, priority_of, texts
from esper_core.telemetry.catalog import CATALOG

CRITICAL_ROOM: Final = 1024
_ATTRIBUTE_SEPARATOR: Final = "\x1f"


@dataclass(frozen=True, slots=True)
class Item:
    """One point or event with the run it concerns and the priority it travels with."""

    part: leyline.TelemetryEvent | leyline.MetricPoint
    run_id: str
    priority: Priority


@dataclass(slots=True)
class _Bucket:
    """Tokens of one event name."""

    tokens: float
    filled_at_s: float


@dataclass(slots=True)
class Losses:
    """What was left out since the last report."""

    dropped: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return self.dropped > 0 or bool(self.suppressed)


class TelemetryBuffer:
    """Points and events that wait. Safe across threads.

    Parameters
    ----------
    capacity : int
        Most items below CRITICAL; the oldest makes room for a new one.
    events_per_min : int
        Events of one name that pass per minute, also the size of a burst; CRITICAL ones always pass.
    clock : Clock
        Source of time.
    """

    def __init__(self, *, capacity: int, events_per_min: int, clock: Clock) -> None:
        self._capacity = capacity
        self._events_per_min = events_per_min
        self._clock = clock
        self._lock = Lock()
        self._items: deque[Item] = deque()
        self._critical: deque[Item] = deque()
        self._gauges: dict[str, Item] = {}
        self._totals: dict[str, float] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._losses = Losses()
        self.dropped_total = 0

    def __len__(self) -> int:
        return len(self._items) + len(self._critical) + len(self._gauges)

    def add_event(self, event: leyline.TelemetryEvent, run_id: str) -> bool:
        """Take an event; tell whether it is CRITICAL and should go out at once."""
        item = Item(event, run_id, priority_of(event.level))
        with self._lock:
            if item.priority == leyline.MESSAGE_PRIORITY_CRITICAL:
                self._append(self._critical, item, CRITICAL_ROOM)
                return True
            if self._passes(event.name):
                self._append(self._items, item, self._capacity)
            else:
                self._losses.suppressed[event.name] += 1
            return False

    def add_observation(self, name: str, value: float, attributes: Mapping[str, object], run_id: str) -> None:
        """Take one observation; each is kept."""
        item = Item(point(name, value, attributes), run_id, leyline.MESSAGE_PRIORITY_NORMAL)
        with self._lock:
            self._append(self._items, item, self._capacity)

    def set_gauge(self, name: str, value: float, attributes: Mapping[str, object], run_id: str) -> None:
        """Take a gauge; only the latest value of a batch is kept."""
        item = Item(point(name, value, attributes), run_id, leyline.MESSAGE_PRIORITY_NORMAL)
        with self._lock:
            self._latest(_key(name, attributes, run_id), item)

    def add_count(self, name: str, amount: float, attributes: Mapping[str, object], run_id: str) -> None:
        """Raise a counter; a batch carries its total since the process started."""
        key = _key(name, attributes, run_id)
        with self._lock:
            self._totals[key] = total = self._totals.get(key, 0.0) + amount
            self._latest(key, Item(point(name, total, attributes), run_id, leyline.MESSAGE_PRIORITY_NORMAL))

    def take(self) -> list[Item]:
        """Remove and return everything that waits, CRITICAL first."""
        with self._lock:
            items = [*self._critical, *self._items, *self._gauges.values()]
            self._critical.clear()
            self._items.clear()
            self._gauges.clear()
            return items

    def put_back(self, items: list[Item]) -> None:
        """Return items that could not be published; they keep their place in front, within the bounds."""
        with self._lock:
            for item in reversed(items):
                critical = item.priority == leyline.MESSAGE_PRIORITY_CRITICAL
                room, bound = (self._critical, CRITICAL_ROOM) if critical else (self._items, self._capacity)
                if len(room) < bound:
                    room.appendleft(item)
                else:
                    self._drop()

    def take_losses(self) -> Losses:
        """Return what was left out since the last call."""
        with self._lock:
            losses, self._losses = self._losses, Losses()
            return losses

    def _latest(self, key: str, item: Item) -> None:
        if key in self._gauges or len(self._gauges) < self._capacity:
            self._gauges[key] = item
        else:
            self._drop()

    def _append(self, room: deque[Item], item: Item, bound: int) -> None:
        if len(room) >= bound:
            room.popleft()
            self._drop()
        room.append(item)

    def _drop(self) -> None:
        self._losses.dropped += 1
        self.dropped_total += 1

    def _passes(self, name: str) -> bool:
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(name, _Bucket(float(self._events_per_min), now))
        refilled = (now - bucket.filled_at_s) * self._events_per_min / 60
        bucket.tokens = min(float(self._events_per_min), bucket.tokens + refilled)
        bucket.filled_at_s = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def point(name: str, value: float, attributes: Mapping[str, object]) -> leyline.MetricPoint:
    """Build one point; a name that no list defines is sent without a unit."""
    unit = CATALOG[name].unit if name in CATALOG else ""
    return leyline.MetricPoint(name=name, value=value, unit=unit, attributes=texts(attributes))


def _key(name: str, attributes: Mapping[str, object], run_id: str) -> str:
    parts = [f"{label}={value}" for label, value in sorted(attributes.items())]
    return _ATTRIBUTE_SEPARATOR.join([name, run_id, *parts])
