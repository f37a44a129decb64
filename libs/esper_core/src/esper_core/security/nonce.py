"""Nonce ledger: remembers which nonces were used until they could not pass the freshness check anyway.

When it is full it refuses; forgetting a live nonce to make room would let that command be replayed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Literal

from esper_core.clocks import SYSTEM_CLOCK, Clock

Claim = Literal["fresh", "replayed", "full"]


@dataclass(frozen=True, slots=True)
class NonceRecord:
    """A used nonce and the wall time after which it may be forgotten; what a journal keeps across restarts."""

    nonce: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """Size and counters since start."""

    size: int
    capacity: int
    claimed_total: int
    replayed_total: int
    refused_full_total: int
    expired_total: int


class NonceLedger:
    """Bounded memory of used nonces. Safe across threads.

    Parameters
    ----------
    capacity : int
        Most nonces that are remembered at a time.
    ttl_s : float
        Seconds a nonce is remembered when the claim names no other span; at least window plus clock skew.
    on_claim : callable, optional
        Told of every fresh nonce before the claim is granted, to journal it; an error from it refuses the claim.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        *,
        capacity: int = 65_536,
        ttl_s: float = 300.0,
        on_claim: Callable[[NonceRecord], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if capacity < 1 or ttl_s <= 0:
            raise ValueError("capacity must be at least 1 and ttl_s above 0")
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._on_claim = on_claim
        self._clock = clock
        self._lock = Lock()
        self._used: set[str] = set()
        self._expiry: list[tuple[float, str]] = []
        self._claimed = self._replayed = self._refused = self._expired = 0

    def claim(self, nonce: str, *, ttl_s: float | None = None) -> Claim:
        """Use a nonce: `fresh` once, then `replayed` until it expires, `full` when there is no room to remember it."""
        span_s = self._ttl_s if ttl_s is None else ttl_s
        with self._lock:
            self._forget_expired()
            if nonce in self._used:
                self._replayed += 1
                return "replayed"
            if len(self._used) >= self._capacity:
                self._refused += 1
                return "full"
            if self._on_claim is not None:
                self._on_claim(NonceRecord(nonce, self._clock.wall() + timedelta(seconds=span_s)))
            self._remember(nonce, span_s)
            self._claimed += 1
            return "fresh"

    def restore(self, records: Iterable[NonceRecord]) -> int:
        """Take up records of an earlier life; return how many are still live. Never exceeds the capacity."""
        now = self._clock.wall()
        restored = 0
        with self._lock:
            for record in sorted(records, key=lambda item: item.expires_at, reverse=True):
                left_s = (record.expires_at - now).total_seconds()
                if left_s <= 0 or record.nonce in self._used or len(self._used) >= self._capacity:
                    continue
                self._remember(record.nonce, left_s)
                restored += 1
        return restored

    def maintain(self) -> int:
        """Forget what has expired; return how many were forgotten."""
        with self._lock:
            return self._forget_expired()

    def clear(self) -> int:
        """Forget everything, by an operator's order; return how many were forgotten."""
        with self._lock:
            count = len(self._used)
            self._used.clear()
            self._expiry.clear()
            return count

    def stats(self) -> LedgerStats:
        """Return size and counters."""
        with self._lock:
            return LedgerStats(
                len(self._used), self._capacity, self._claimed, self._replayed, self._refused, self._expired
            )

    def _remember(self, nonce: str, span_s: float) -> None:
        self._used.add(nonce)
        heapq.heappush(self._expiry, (self._clock.monotonic() + span_s, nonce))

    def _forget_expired(self) -> int:
        now = self._clock.monotonic()
        count = 0
        while self._expiry and self._expiry[0][0] <= now:
            self._used.discard(heapq.heappop(self._expiry)[1])
            count += 1
        self._expired += count
        return count
