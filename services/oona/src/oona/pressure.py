"""Back-pressure of one stream: refuses LOW, then NORMAL, while a group cannot keep up. Never diverts anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_core import leyline

CALM: Final = 0
NO_LOW: Final = 1
NO_NORMAL: Final = 2
_SHED: Final[dict[int, int]] = {leyline.MESSAGE_PRIORITY_LOW: NO_LOW, leyline.MESSAGE_PRIORITY_NORMAL: NO_NORMAL}


@dataclass(frozen=True, slots=True)
class PressureLimits:
    """Backlogs, in messages, and the shortest time, in seconds.

    Attributes
    ----------
    enter : int
        From here on LOW is refused.
    enter_normal : int
        From here on NORMAL is refused too.
    leave : int
        Down here back-pressure ends, once its shortest time is over.
    min_s : float
        Shortest time, so that publishers are not sent away and called back in turn.
    """

    enter: int = 4000
    enter_normal: int = 8000
    leave: int = 1000
    min_s: float = 60.0


class PressureGate:
    """The state of one stream; time is passed in."""

    def __init__(self, limits: PressureLimits) -> None:
        self._limits = limits
        self._since_s = 0.0
        self.level = CALM
        self.backlog = 0

    @property
    def active(self) -> bool:
        """Whether anything is refused."""
        return self.level > CALM

    def observe(self, backlog: int, now_s: float) -> bool:
        """Take a measurement of the largest backlog among the groups; tell whether the level changed."""
        before, self.backlog = self.level, backlog
        if backlog >= self._limits.enter_normal:
            self.level = NO_NORMAL
        elif backlog >= self._limits.enter:
            self.level = max(self.level, NO_LOW)
        elif self.active and backlog <= self._limits.leave and now_s - self._since_s >= self._limits.min_s:
            self.level = CALM
        if before == CALM and self.active:
            self._since_s = now_s
        return self.level != before

    def refuses(self, priority: int) -> bool:
        """Tell whether a message of this priority is refused now; HIGH and CRITICAL never are."""
        return priority in _SHED and self.level >= _SHED[priority]

    def retry_after_s(self, now_s: float) -> float:
        """Return how long a refused publisher should wait: until the shortest time is over, at least a second."""
        return max(1.0, self._since_s + self._limits.min_s - now_s)
