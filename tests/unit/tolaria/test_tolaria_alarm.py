"""The emergency level: up at once, down only by an explicit word, and no signal lost to the cap."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.clocks import ManualClock
from esper_core.errors import StateConflictError, ValidationError
from tolaria.safety.alarm import Alarm, AlarmRules, Note, Signal
from tolaria.safety.streak import FailedEpochs

L1, L2, L3, L4 = (leyline.EmergencyLevel.ValueType(level) for level in (1, 2, 3, 4))
RULES = AlarmRules(per_minute=3, bypass_per_minute=2, hold_s=30.0, queue_limit=8)


def signal(level: int, name: str = "s", clock: ManualClock | None = None) -> Signal:
    moment = (clock or ManualClock()).wall()
    return Signal(leyline.EmergencyLevel.ValueType(level), f"reason of {name}", name, "test", moment)


def alarm_of(**rules: float) -> tuple[Alarm, ManualClock]:
    clock = ManualClock()
    return Alarm(replace(RULES, **rules), clock=clock), clock  # type: ignore[arg-type]


def told_ids(notes: list[Note]) -> list[str]:
    return [note.signal.signal_id for note in notes if note.signal.signal_id]


@pytest.mark.req("TOL-6")
def test_the_level_rises_at_once_and_lower_signals_do_not_lower_it() -> None:
    alarm, _ = alarm_of()
    assert [note.how for note in alarm.hear(signal(L2))] == ["raised"]
    assert [note.how for note in alarm.hear(signal(L3))] == ["raised"]
    (held,) = alarm.hear(signal(L1))
    assert (held.how, held.now, alarm.level) == ("held", L3, L3)
    assert alarm.standing is not None and alarm.standing.level == L3


@pytest.mark.req("TOL-6")
@pytest.mark.parametrize("level", [0, 5, -1])
def test_what_is_no_level_is_refused_and_changes_nothing(level: int) -> None:
    alarm, _ = alarm_of()
    with pytest.raises(ValidationError):
        alarm.hear(signal(level))
    with pytest.raises(ValidationError):
        alarm.lower(leyline.EmergencyLevel.ValueType(level), "calm", "operator")
    assert alarm.standing is None


@pytest.mark.req("TOL-6")
def test_the_level_is_lowered_only_by_word_and_only_after_a_quiet_time() -> None:
    alarm, clock = alarm_of()
    alarm.hear(signal(L3))
    clock.advance(29.0)
    with pytest.raises(StateConflictError, match="stands for 30 s"):
        alarm.lower(L1, "calm", "operator")
    alarm.hear(signal(L3, "again"))
    clock.advance(29.0)
    with pytest.raises(StateConflictError):
        alarm.lower(L1, "calm", "operator")
    clock.advance(1.0)
    note = alarm.lower(L2, "calm", "operator")
    assert (note.how, note.now, alarm.level) == ("lowered", L2, L2)
    assert note.signal.triggered_at == clock.wall()
    with pytest.raises(ValidationError):
        alarm.lower(L2, "calmer", "operator")
    with pytest.raises(StateConflictError):
        alarm.lower(L1, "two steps at once", "operator")


@pytest.mark.req("TOL-4")
def test_clearing_forgets_everything_and_tells_what_waited() -> None:
    alarm, clock = alarm_of()
    for number in range(6):
        alarm.hear(signal(L2, f"s{number}"))
    assert alarm.waiting and alarm.level == L3
    *late, cleared = alarm.clear("over", "operator")
    assert told_ids(late) == ["s3", "s4", "s5"] and {note.now for note in (*late, cleared)} == {0}
    assert (cleared.how, cleared.signal.level) == ("cleared", L3)
    fresh = Alarm(RULES, clock=clock)
    assert (alarm.standing, alarm.level, alarm.waiting) == (None, 0, 0)
    for _ in range(5):  # As good as new: the minute, the storm and the level begin again.
        assert alarm.hear(signal(L1, clock=clock)) == fresh.hear(signal(L1, clock=clock))
    assert alarm.level == fresh.level


@pytest.mark.req("TOL-3")
def test_the_cap_is_enforced_past_it_only_rises_are_told_and_that_is_capped_and_told_too() -> None:
    alarm, _ = alarm_of(bypass_per_minute=1)
    told = [note for number in range(3) for note in alarm.hear(signal(L1, f"s{number}"))]
    assert not any(note.past_cap for note in told)
    (past,) = alarm.hear(signal(L2, "rise"))
    assert past.past_cap and past.how == "raised"
    (storm,) = alarm.hear(signal(L3, "beyond"))
    assert alarm.level == L3, "the signal acts although its telling waits"
    assert storm.past_cap and "More than 3 emergencies" in storm.signal.reason and storm.signal.origin == "tolaria"
    assert alarm.hear(signal(L1, "quiet")) == []


@pytest.mark.req("TOL-24")
def test_a_storm_raises_the_level_once_and_is_told_when_there_is_room() -> None:
    alarm, clock = alarm_of()
    for number in range(3):
        alarm.hear(signal(L1, f"s{number}"))
    assert [note.now for note in alarm.hear(signal(L1, "s3"))] == [L2]
    assert alarm.hear(signal(L1, "s4")) == [] and alarm.level == L2
    clock.advance(60.0)
    late = alarm.release()
    assert told_ids(late) == ["s3", "s4"] and all(note.waited for note in late)
    assert not alarm.waiting


@pytest.mark.req("TOL-24")
def test_a_queue_that_is_full_halts_instead_of_losing_a_signal() -> None:
    alarm, _ = alarm_of()
    told = [note for number in range(11) for note in alarm.hear(signal(L1, f"s{number}"))]
    assert sorted(told_ids(told)) == sorted(f"s{number}" for number in range(11))
    assert alarm.level == L4 and told[-1].signal.reason == "8 emergencies wait to be told."


@pytest.mark.req("TOL-24")
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 40)), max_size=40))
def test_every_signal_is_told_exactly_once_and_none_is_above_the_level(heard: list[tuple[int, float]]) -> None:
    alarm, clock = alarm_of()
    told: Counter[str] = Counter()
    for number, (level, pause_s) in enumerate(heard):
        clock.advance(pause_s)
        told.update(told_ids(alarm.hear(signal(level, f"s{number}"))))
        assert alarm.level >= level
    told.update(told_ids(alarm.flush()))
    assert told == Counter(f"s{number}" for number in range(len(heard)))


@pytest.mark.req("TOL-35")
def test_only_neighbouring_epochs_make_a_streak() -> None:
    streak = FailedEpochs(3)
    assert [streak.failed(epoch) for epoch in (0, 0, 1, 1, 3, 4, 5)] == [False] * 6 + [True]
