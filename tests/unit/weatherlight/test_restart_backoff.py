"""A dead service comes back soon, then later and later, and soon again after a healthy minute."""

from __future__ import annotations

from random import Random

import pytest

from esper_core.clocks import ManualClock
from weatherlight.backoff import Backoff, BackoffPolicy


def steady(clock: ManualClock) -> Backoff:
    return Backoff(BackoffPolicy(jitter=0.0), clock, Random(0))


@pytest.mark.req("WEA-5")
def test_waits_double_from_two_to_thirty_seconds() -> None:
    backoff = steady(ManualClock())
    waits = []
    for _ in range(6):
        backoff.started()
        waits.append(backoff.died())
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.req("WEA-5")
def test_a_healthy_minute_makes_the_next_wait_short_again() -> None:
    clock = ManualClock()
    backoff = steady(clock)
    for _ in range(3):
        backoff.started()
        backoff.died()
    backoff.started()
    clock.advance(60.0)
    assert backoff.died() == 2.0


def test_jitter_stays_within_its_bounds() -> None:
    clock = ManualClock()
    waits = []
    for seed in range(200):
        backoff = Backoff(BackoffPolicy(jitter=0.1), clock, Random(seed))
        backoff.started()
        waits.append(backoff.died())
    assert 1.8 <= min(waits) < 2.0 < max(waits) <= 2.2


def test_five_deaths_in_five_minutes_are_a_crash_loop_until_time_has_passed() -> None:
    clock = ManualClock()
    backoff = steady(clock)
    for _ in range(4):
        backoff.died()
    assert not backoff.crash_looping()
    backoff.died()
    assert backoff.crash_looping()
    clock.advance(301)
    assert not backoff.crash_looping()
