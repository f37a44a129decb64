"""Whether a command comes from Tamiyo, now, and for the first time."""

from __future__ import annotations

import time

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.security.keyring import Keyring
from esper_core.security.nonce import NonceLedger
from esper_core.security.signing import FreshnessPolicy, MessageVerifier, Verification
from kasmina.journal import NonceJournal
from kasmina.telemetry import Telemetry


class CommandVerifier:
    """Verifies commands and tells what it found.

    Parameters
    ----------
    keyring : Keyring
        Keys that verify.
    ledger : NonceLedger
        Remembers nonces, over restarts too.
    freshness : FreshnessPolicy
        Bounds on age, which no sender can widen.
    telemetry : Telemetry
        Hears of every rejection.
    clock : Clock
        Wall time.
    ttl_s : float
        How long a nonce is remembered at most, for the gauge of that name.
    """

    def __init__(
        self,
        keyring: Keyring,
        ledger: NonceLedger,
        freshness: FreshnessPolicy,
        telemetry: Telemetry,
        clock: Clock,
        *,
        ttl_s: float,
    ) -> None:
        self._verifier = MessageVerifier(keyring, "command", ledger=ledger, freshness=freshness, clock=clock)
        self._ledger = ledger
        self._telemetry = telemetry
        self._told_expired = 0
        self._told_refused = 0
        telemetry.instruments.gauge("kasmina.nonce_ledger.ttl_seconds", ttl_s)

    def verify(self, command: leyline.AdaptationCommand) -> Verification:
        """Check presence, key, signature, times and nonce, in that order; the nonce is journalled when it is fresh.

        Raises
        ------
        StorageError
            If the nonce cannot be journalled; the command is not accepted then.
        """
        started = time.perf_counter()
        verification = self._verifier.verify(command)
        instruments = self._telemetry.instruments
        instruments.observe("kasmina.command_verifier.latency_ms", (time.perf_counter() - started) * 1000)
        if verification.accepted:
            instruments.count("kasmina.command_verifier.accepted_total")
        self.tell_ledger()
        return verification

    def tell_ledger(self) -> None:
        """Tell size and evictions of the nonce ledger; called at every command and by the housekeeping."""
        self._ledger.maintain()
        stats, instruments = self._ledger.stats(), self._telemetry.instruments
        instruments.gauge("kasmina.nonce_ledger.size", stats.size)
        instruments.count("kasmina.nonce_ledger.evictions_total", stats.expired_total - self._told_expired)
        instruments.count("kasmina.nonce_ledger.refused_full_total", stats.refused_full_total - self._told_refused)
        self._told_expired, self._told_refused = stats.expired_total, stats.refused_full_total


def nonce_ledger(journal: NonceJournal, capacity: int, ttl_s: float, clock: Clock) -> NonceLedger:
    """Return a ledger that remembers what was used before a restart."""
    ledger = NonceLedger(capacity=capacity, ttl_s=ttl_s, on_claim=journal.append, clock=clock)
    ledger.restore(journal.records)
    return ledger
