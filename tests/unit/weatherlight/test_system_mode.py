"""The gravest reason rules the mode, and every reason is told."""

from __future__ import annotations

from esper_core import leyline
from weatherlight.mode import ModeKeeper
from weatherlight.topology import SYSTEM, dependents, stop_waves


def test_a_system_without_reasons_is_operational() -> None:
    keeper = ModeKeeper()
    assert keeper.mode() == leyline.SYSTEM_MODE_OPERATIONAL
    assert keeper.reasons() == []


def test_a_critical_service_that_is_away_makes_it_conservative_and_coming_back_heals_it() -> None:
    keeper = ModeKeeper()
    keeper.observe_health({"tamiyo": "it does not answer", "simic": "it does not answer"})
    assert keeper.mode() == leyline.SYSTEM_MODE_CONSERVATIVE
    assert keeper.reasons() == ["tamiyo is away: it does not answer"]
    keeper.observe_health({})
    assert keeper.mode() == leyline.SYSTEM_MODE_OPERATIONAL


def test_a_halt_rules_over_everything_until_it_is_cleared() -> None:
    keeper = ModeKeeper()
    keeper.observe_health({"oona": "away"})
    keeper.set_by_operator(leyline.SYSTEM_MODE_CONSERVATIVE, "an experiment")
    keeper.raise_emergency("s1", leyline.EMERGENCY_LEVEL_HALT, "loss is NaN")
    assert keeper.mode() == leyline.SYSTEM_MODE_EMERGENCY
    assert "loss is NaN" in keeper.reasons()[0]
    assert len(keeper.reasons()) == 3
    assert keeper.clear_emergencies() == ["s1"]
    assert keeper.mode() == leyline.SYSTEM_MODE_CONSERVATIVE


def test_a_notice_changes_no_mode() -> None:
    keeper = ModeKeeper()
    keeper.raise_emergency("s1", leyline.EMERGENCY_LEVEL_NOTICE, "look at this")
    assert keeper.mode() == leyline.SYSTEM_MODE_OPERATIONAL


def test_an_operator_can_take_the_word_back() -> None:
    keeper = ModeKeeper()
    keeper.set_by_operator(leyline.SYSTEM_MODE_CONSERVATIVE, "an experiment")
    keeper.set_by_operator(leyline.SYSTEM_MODE_OPERATIONAL, "done")
    assert keeper.mode() == leyline.SYSTEM_MODE_OPERATIONAL


def test_services_start_behind_what_they_need_and_stop_before_it() -> None:
    order = [node.name for node in SYSTEM]
    assert all(order.index(need) < order.index(node.name) for node in SYSTEM for need in node.depends_on)
    waves = stop_waves()
    level = {name: number for number, wave in enumerate(waves) for name in wave}
    assert sorted(level) == sorted(order)
    assert all(level[node.name] < level[need] for node in SYSTEM for need in node.depends_on)


def test_what_needs_a_service_is_known_near_and_far() -> None:
    assert dependents("valkey") == ["oona", "urabrask", "simic", "nissa"]
    assert dependents("tolaria") == []
