"""Who may publish: tokens of HIGH, the emergency backlog, back-pressure, and CRITICAL whatever happens."""

from __future__ import annotations

import pytest

from esper_core import leyline
from esper_core.bus import STREAMS
from esper_core.errors import ResourceExhaustedError
from oona.admission import Admission
from oona.pressure import PressureGate, PressureLimits
from oona.tokens import MAX_SOURCES, TokenBuckets

LOW, NORMAL = leyline.MESSAGE_PRIORITY_LOW, leyline.MESSAGE_PRIORITY_NORMAL
HIGH, CRITICAL = leyline.MESSAGE_PRIORITY_HIGH, leyline.MESSAGE_PRIORITY_CRITICAL


def admission(per_minute: int = 120, threshold: int = 1000) -> Admission:
    gates = {name: PressureGate(PressureLimits()) for name in STREAMS}
    return Admission(gates, TokenBuckets(per_minute), threshold)


@pytest.mark.req("OON-2")
def test_a_source_may_send_its_high_messages_of_a_minute_and_then_as_they_refill() -> None:
    rules = admission(per_minute=60)
    for _ in range(60):
        rules.require_admitted("emergency", HIGH, "tamiyo", 0.0)
    with pytest.raises(ResourceExhaustedError, match="used up") as refused:
        rules.require_admitted("emergency", HIGH, "tamiyo", 0.0)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    assert refused.value.details["reason"] == "rate_limit"
    rules.require_admitted("emergency", HIGH, "tamiyo", 1.0)
    with pytest.raises(ResourceExhaustedError):
        rules.require_admitted("emergency", HIGH, "tamiyo", 1.0)


def test_one_noisy_source_does_not_silence_another() -> None:
    rules = admission(per_minute=1)
    rules.require_admitted("emergency", HIGH, "tamiyo", 0.0)
    rules.require_admitted("emergency", HIGH, "tolaria", 0.0)


@pytest.mark.req("OON-2")
def test_high_waits_while_the_emergency_stream_is_behind_its_threshold() -> None:
    rules = admission(threshold=10)
    rules.gates["emergency"].observe(10, 0.0)
    with pytest.raises(ResourceExhaustedError, match="wait for CRITICAL"):
        rules.require_admitted("emergency", HIGH, "tamiyo", 0.0)
    rules.gates["emergency"].observe(9, 0.0)
    rules.require_admitted("emergency", HIGH, "tamiyo", 0.0)


@pytest.mark.req("OON-4")
def test_critical_passes_every_rule() -> None:
    rules = admission(per_minute=1, threshold=1)
    for gate in rules.gates.values():
        gate.observe(1_000_000, 0.0)
    for _ in range(500):
        rules.require_admitted("emergency", CRITICAL, "tamiyo", 0.0)


@pytest.mark.req("OON-5")
def test_back_pressure_of_one_stream_leaves_the_others_alone() -> None:
    rules = admission()
    rules.gates["telemetry"].observe(8000, 0.0)
    for priority in (LOW, NORMAL):
        with pytest.raises(ResourceExhaustedError, match="8000 messages behind"):
            rules.require_admitted("telemetry", priority, "nissa", 0.0)
        rules.require_admitted("normal", priority, "nissa", 0.0)


def test_the_number_of_sources_is_bounded() -> None:
    buckets = TokenBuckets(60)
    for number in range(MAX_SOURCES * 2):
        buckets.take(str(number), 0.0)
    assert len(buckets._buckets) == MAX_SOURCES
