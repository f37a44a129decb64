"""The ledger forgets what has expired, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esper_core.clocks import ManualClock
from esper_core.errors import StorageError
from esper_core.security import NonceLedger, NonceRecord


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.ledger = NonceLedger(capacity=4, ttl_s=10, clock=self.clock)
        self.model: dict[str, float] = {}

    @rule(nonce=st.sampled_from("abcdef"), ttl_s=st.sampled_from([None, 1.0, 5.0, 20.0]))
    def claim(self, nonce: str, ttl_s: float | None) -> None:
        now = self.clock.monotonic()
        self.model = {key: expiry for key, expiry in self.model.items() if expiry > now}
        expected = "replayed" if nonce in self.model else "full" if len(self.model) >= 4 else "fresh"
        assert self.ledger.claim(nonce, ttl_s=ttl_s) == expected
        if expected == "fresh":
            self.model[nonce] = now + (10 if ttl_s is None else ttl_s)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 9.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def bounded(self) -> None:
        assert self.ledger.stats().size <= 4


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_it_survives_a_restart_by_its_records() -> None:
    clock = ManualClock()
    journal: list[NonceRecord] = []
    ledger = NonceLedger(capacity=10, ttl_s=60, on_claim=journal.append, clock=clock)
    for nonce in ("a", "b"):
        ledger.claim(nonce)
    clock.advance(30)
    ledger.claim("c")
    later = ManualClock(clock.wall() + timedelta(seconds=40))
    reborn = NonceLedger(capacity=10, ttl_s=60, clock=later)
    assert reborn.restore(journal) == 1
    assert reborn.claim("c") == "replayed"
    assert reborn.claim("a") == "fresh"
    later.advance(21)
    assert reborn.claim("c") == "fresh"


def test_a_nonce_that_cannot_be_journalled_is_not_granted() -> None:
    def refuse(record: NonceRecord) -> None:
        raise StorageError("Cannot write the journal.")

    ledger = NonceLedger(on_claim=refuse)
    for _ in range(2):
        with pytest.raises(StorageError):
            ledger.claim("a")
    assert ledger.stats().size == 0


def test_counters_and_clearing() -> None:
    clock = ManualClock()
    ledger = NonceLedger(capacity=1, ttl_s=5, clock=clock)
    assert [ledger.claim(nonce) for nonce in "aab"] == ["fresh", "replayed", "full"]
    clock.advance(5)
    assert ledger.maintain() == 1
    ledger.claim("c")
    stats = ledger.stats()
    assert (stats.claimed_total, stats.replayed_total, stats.refused_full_total, stats.expired_total) == (2, 1, 1, 1)
    assert ledger.clear() == 1 and ledger.claim("c") == "fresh"
