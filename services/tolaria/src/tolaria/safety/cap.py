"""How often something may happen within a minute."""

from __future__ import annotations

from collections import deque
from typing import Final

from esper_core.clocks import SYSTEM_CLOCK, Clock

_WINDOW_S: Final = 60.0


class MinuteCap:
    """Admits so many events within any minute.

    Parameters
    ----------
    limit : int
        Events that are admitted, at least 1.
    """

    def __init__(self, limit: int, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if limit < 1:
            raise ValueError("a cap admits at least one event a minute")
        self.limit = limit
        self._clock = clock
        self._admitted: deque[float] = deque()

    def admit(self) -> bool:
        """Admit one event, or say that the minute is full."""
        now = self._clock.monotonic()
        while self._admitted and now - self._admitted[0] >= _WINDOW_S:
            self._admitted.popleft()
        if len(self._admitted) >= self.limit:
            return False
        self._admitted.append(now)
        return True

    def reset(self) -> None:
        """Forget what was admitted."""
        self._admitted.clear()
