"""Ids are minted well-formed and parsed strictly; times keep their zone and their kind."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from esper_core import ids
from esper_core.clocks import (
    SYSTEM_CLOCK,
    Deadline,
    ManualClock,
    from_duration,
    from_timestamp,
    to_duration,
    to_timestamp,
)
from esper_core.errors import ValidationError

sites = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)


@given(sites, st.integers(0, 999_999_999))
def test_seed_ids_round_trip(site: str, ordinal: int) -> None:
    run = ids.new_run_id()
    seed = ids.parse_seed_id(ids.format_seed_id(run, site, ordinal))
    assert (seed.run_id, seed.site, seed.ordinal) == (run, site, ordinal)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (ids.parse_seed_id, ids.parse_run_id, ids.parse_command_id, ids.parse_site):
        try:
            parse(text)
        except ValidationError as error:
            assert error.field and error.allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "a/b/c",
        "{run}/s/-1",
        "{run}/s/01",
        "{run}//1",
        "{run}/s/1/2",
        "{run}/s/1\n",
        " {run}/s/1",
        "{run}/s/٣",
    ],
)
def test_malformed_seed_ids_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="seed_id"):
        ids.parse_seed_id(text.replace("{run}", "01ARZ3NDEKTSV4RRFFQ69G5FAV"))


def test_run_ids_sort_by_time_and_hold_it() -> None:
    clock = ManualClock()
    first = ids.new_run_id(clock)
    clock.advance(0.002)
    second = ids.new_run_id(clock)
    assert first < second and ids.parse_run_id(first) == first
    assert len({ids.new_run_id(clock) for _ in range(1000)}) == 1000


def test_command_ids_are_uuid4() -> None:
    assert ids.parse_command_id(ids.new_command_id())
    for bad in ("", "x", "6BA7B810-9DAD-41D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"):
        with pytest.raises(ValidationError):
            ids.parse_command_id(bad)
    assert re.fullmatch(r"report-[0-9a-f]{32}", ids.new_id("report"))


def test_wall_time_is_aware_and_monotonic_time_never_goes_back() -> None:
    assert SYSTEM_CLOCK.wall().tzinfo is UTC
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()
    clock = ManualClock()
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)
    clock.shift_wall(-3600)
    assert clock.monotonic() == 0 and clock.wall() < datetime(2026, 1, 1, tzinfo=UTC)


@given(
    st.datetimes(
        min_value=datetime(1970, 1, 2), max_value=datetime(9998, 1, 1), timezones=st.just(timezone(timedelta(hours=5)))
    )
)
def test_timestamps_round_trip(moment: datetime) -> None:
    assert from_timestamp(to_timestamp(moment)) == moment


@given(st.floats(-1e6, 1e6))
def test_durations_round_trip(seconds: float) -> None:
    assert from_duration(to_duration(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert from_duration(Duration(seconds=1, nanos=5)) == 1.000000005


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        to_timestamp(datetime(2026, 1, 1))


def test_deadlines() -> None:
    clock = ManualClock()
    deadline = Deadline.after(2, clock)
    clock.advance(1.5)
    assert deadline.remaining_s == 0.5 and not deadline.passed
    clock.advance(1)
    assert deadline.remaining_s == 0 and deadline.passed
