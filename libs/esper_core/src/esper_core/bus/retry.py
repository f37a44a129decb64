"""How often and how late a failed delivery comes again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Rules of redelivery.

    Attributes
    ----------
    max_attempts : int
        Failures of a handler after which a message becomes a dead letter.
    max_deliveries : int
        Deliveries without any answer, because consumer or broker died, after which it becomes one as well.
    first_delay_s, longest_delay_s : float
        Wait after the first failure; it doubles up to the longest.
    """

    max_attempts: int = 5
    max_deliveries: int = 20
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Return the wait after the given number of failures, at least 1."""
        return float(min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(failures - 1, 30)))


DEFAULT_RETRY = RetryPolicy()
