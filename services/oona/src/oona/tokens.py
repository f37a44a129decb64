"""Token buckets for HIGH messages, one per source, so that one noisy service does not silence the others."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_SOURCES: Final = 256


class TokenBuckets:
    """Buckets that hold a minute's worth and fill steadily; time is passed in.

    Parameters
    ----------
    per_minute : int
        Messages per minute and source; also the size of a burst.
    """

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._per_s = per_minute / 60.0
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str, now_s: float) -> float:
        """Take a token; return 0, or the seconds until the next one when there is none."""
        tokens = self.left(source, now_s)
        granted = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if granted else tokens, now_s)
        self._buckets.move_to_end(source)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1.0 - tokens) / self._per_s

    def left(self, source: str, now_s: float) -> float:
        """Return the tokens of a source."""
        tokens, filled_s = self._buckets.get(source, (self._size, now_s))
        return min(self._size, tokens + (now_s - filled_s) * self._per_s)
