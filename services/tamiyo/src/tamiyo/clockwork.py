"""A stopwatch on an explicit clock."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.clocks import Clock


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Measures from the moment that it was made."""

    clock: Clock
    started_s: float

    @classmethod
    def start(cls, clock: Clock) -> Stopwatch:
        """Return a running stopwatch."""
        return cls(clock, clock.monotonic())

    def elapsed_ms(self) -> float:
        """Return milliseconds since the start."""
        return (self.clock.monotonic() - self.started_s) * 1000.0
