"""Back-pressure: when it begins, whom it refuses, when it ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from oona.pressure import CALM, NO_LOW, NO_NORMAL, PressureGate, PressureLimits

LOW, NORMAL = leyline.MESSAGE_PRIORITY_LOW, leyline.MESSAGE_PRIORITY_NORMAL
HIGH, CRITICAL = leyline.MESSAGE_PRIORITY_HIGH, leyline.MESSAGE_PRIORITY_CRITICAL
LIMITS = PressureLimits()

pytestmark = pytest.mark.req("OON-5")


def test_it_begins_with_low_at_4000_and_adds_normal_at_8000() -> None:
    gate = PressureGate(LIMITS)
    assert not gate.observe(3999, 0) and gate.level == CALM
    assert gate.observe(4000, 0) and gate.refuses(LOW) and not gate.refuses(NORMAL)
    assert gate.observe(8000, 1) and gate.refuses(LOW) and gate.refuses(NORMAL)
    assert not gate.refuses(HIGH) and not gate.refuses(CRITICAL)


def test_it_ends_at_1000_after_a_minute_and_not_before() -> None:
    gate = PressureGate(LIMITS)
    gate.observe(4000, 10)
    assert not gate.observe(1000, 69.9) and gate.level == NO_LOW
    assert not gate.observe(1001, 71) and gate.level == NO_LOW
    assert gate.observe(1000, 71) and gate.level == CALM


def test_a_publisher_is_told_when_to_come_back() -> None:
    gate = PressureGate(LIMITS)
    gate.observe(4000, 10)
    assert gate.retry_after_s(30) == 40
    assert gate.retry_after_s(100) == 1


@given(st.lists(st.tuples(st.integers(0, 12_000), st.floats(0, 30)), max_size=60))
def test_urgent_messages_always_pass_and_no_episode_is_shorter_than_a_minute(
    measurements: list[tuple[int, float]],
) -> None:
    gate, now, began = PressureGate(LIMITS), 0.0, 0.0
    for backlog, pause in measurements:
        now += pause
        before = gate.level
        gate.observe(backlog, now)
        if before == CALM and gate.active:
            began = now
        if before != CALM and not gate.active:
            assert now - began >= 60
        assert not gate.refuses(HIGH) and not gate.refuses(CRITICAL)
        assert gate.level != NO_NORMAL or gate.refuses(LOW)
