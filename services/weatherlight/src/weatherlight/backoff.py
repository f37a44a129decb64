"""When a dead service is started again: soon, then later and later, and soon again after a healthy minute."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from esper_core.clocks import Clock


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Limits of the back-off.

    Parameters
    ----------
    first_s, longest_s : float
        Shortest and longest wait in seconds.
    jitter : float
        Largest relative deviation of a wait, so that services do not come back in step.
    healthy_s : float
        Seconds of health after which the next wait is the shortest again.
    crash_loop_deaths, crash_loop_window_s : int, float
        So many deaths within so many seconds are a crash loop.
    """

    first_s: float = 2.0
    longest_s: float = 30.0
    jitter: float = 0.1
    healthy_s: float = 60.0
    crash_loop_deaths: int = 5
    crash_loop_window_s: float = 300.0


@dataclass(slots=True)
class Backoff:
    """The back-off of one service."""

    policy: BackoffPolicy
    clock: Clock
    random: Random
    _step: int = 0
    _alive_since: float | None = None
    _deaths: deque[float] = field(default_factory=deque)

    def started(self) -> None:
        """Take note that the service was started."""
        self._alive_since = self.clock.monotonic()

    def age_s(self) -> float:
        """Return the seconds since it was started, 0 when it never was."""
        return 0.0 if self._alive_since is None else self.clock.monotonic() - self._alive_since

    def died(self) -> float:
        """Take note that it died; return the seconds to wait before it is started again."""
        now = self.clock.monotonic()
        if self.age_s() >= self.policy.healthy_s:
            self._step = 0
        wait: float = min(self.policy.first_s * 2**self._step, self.policy.longest_s)
        self._step += 1
        self._deaths.append(now)
        return wait * (1 + self.policy.jitter * (2 * self.random.random() - 1))

    def crash_looping(self) -> bool:
        """Return whether it has died too often lately."""
        horizon = self.clock.monotonic() - self.policy.crash_loop_window_s
        while self._deaths and self._deaths[0] < horizon:
            self._deaths.popleft()
        return len(self._deaths) >= self.policy.crash_loop_deaths
