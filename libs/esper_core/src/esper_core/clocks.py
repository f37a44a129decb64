"""Time, passed in: wall time for what people and other machines read, monotonic time for every duration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


class Clock(Protocol):
    """Source of time."""

    def wall(self) -> datetime:
        """Return the present as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back, means nothing on another host."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def wall(self) -> datetime:
        """Return the present in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()


SYSTEM_CLOCK: Final = SystemClock()


class ManualClock:
    """A clock that moves only when told, for tests and replays.

    Parameters
    ----------
    start : datetime, optional
        First wall time, aware; 2026-01-01 UTC by default.
    """

    __slots__ = ("_monotonic", "_wall")

    def __init__(self, start: datetime | None = None) -> None:
        self._wall = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def wall(self) -> datetime:
        """Return the wall time set so far."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        if seconds < 0:
            raise ValueError("a monotonic clock cannot go back; use shift_wall for a wall clock step")
        self._monotonic += seconds
        self._wall += timedelta(seconds=seconds)

    def shift_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as NTP or a person would."""
        self._wall += timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on one clock by which something has to be done."""

    clock: Clock
    at_monotonic_s: float

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """Return the deadline `seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at_monotonic_s - self.clock.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the moment is over."""
        return self.clock.monotonic() >= self.at_monotonic_s


def to_timestamp(moment: datetime) -> Timestamp:
    """Convert an aware datetime.

    Raises
    ------
    ValueError
        If the datetime is naive: its meaning would depend on the machine.
    """
    if moment.tzinfo is None:
        raise ValueError("a naive datetime has no place in a message; attach a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_timestamp(stamp: Timestamp) -> datetime:
    """Convert to an aware datetime in UTC, with microseconds."""
    return stamp.ToDatetime(tzinfo=UTC)


def to_duration(seconds: float | timedelta) -> Duration:
    """Convert seconds or a timedelta, rounded to microseconds."""
    span = Duration()
    span.FromTimedelta(seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
    return span


def from_duration(span: Duration) -> float:
    """Convert to seconds."""
    return span.seconds + span.nanos / 1e9
