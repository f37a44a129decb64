"""Conservative mode: in at once, out only after a dwell and a row of healthy evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import ValidationError
from support.tamiyo_parts import RUN
from tamiyo.conservative import DwellRules, Mode
from tamiyo.operator_mode import OperatorMode
from tamiyo.runs import RunTable

RULES = DwellRules(dwell_s=30.0, dwell_evaluations=50, healthy_needed=10)
OPEN, HALF_OPEN = leyline.CIRCUIT_STATE_OPEN, leyline.CIRCUIT_STATE_HALF_OPEN

pytestmark = pytest.mark.req("TAM-22")


def walked(mode: Mode, evaluations: int, *, now_s: float = 0.0, healthy: bool = True) -> Mode:
    """Return the mode after some evaluations."""
    for _ in range(evaluations):
        mode = mode.after("", healthy, now_s, RULES)
    return mode


def test_a_grave_reason_switches_it_on_and_that_evaluation_never_leaves_it() -> None:
    hasty = DwellRules(dwell_s=0.0, dwell_evaluations=1, healthy_needed=1)
    mode = Mode().after("a spike", True, 0.0, hasty)
    assert mode.on
    assert mode.state == OPEN


def test_it_dwells_thirty_seconds_or_fifty_evaluations() -> None:
    mode = Mode().entered("a spike", 0.0)
    assert walked(mode, 49).state == OPEN
    assert walked(mode, 50).state == HALF_OPEN
    assert walked(mode, 1, now_s=30.0).state == HALF_OPEN


def test_ten_healthy_evaluations_in_a_row_end_it() -> None:
    half = walked(Mode().entered("a spike", 0.0), 50)
    assert walked(half, 9).on
    assert not walked(half, 10).on


def test_an_unhealthy_evaluation_starts_the_row_anew() -> None:
    half = walked(Mode().entered("a spike", 0.0), 50)
    interrupted = walked(walked(half, 9), 1, healthy=False)
    assert walked(interrupted, 9).on
    assert not walked(interrupted, 10).on


def test_a_new_grave_reason_starts_the_dwell_anew() -> None:
    half = walked(Mode().entered("a spike", 0.0), 50)
    again = half.after("another spike", False, 5.0, RULES)
    assert (again.state, again.reason) == (OPEN, "another spike")
    assert walked(again, 49).state == OPEN


def test_only_an_operator_ends_what_an_operator_began(tmp_path: Path) -> None:
    runs = RunTable()
    memory = runs.open(RUN)
    operator = OperatorMode(tmp_path / "operator.json", runs)
    operator.switch(True, "maintenance", RUN)
    assert walked(memory.mode, 1000, now_s=1000.0).on
    restarted = RunTable()
    OperatorMode(tmp_path / "operator.json", restarted)
    assert restarted.open(RUN).mode.by_operator
    operator.switch(False, "done", RUN)
    assert not memory.mode.on
    assert json.loads((tmp_path / "operator.json").read_text()) == {}


def test_an_order_for_all_runs_stands_above_the_release_of_one(tmp_path: Path) -> None:
    runs = RunTable()
    memory = runs.open(RUN)
    operator = OperatorMode(tmp_path / "operator.json", runs)
    operator.switch(True, "maintenance", "")
    operator.switch(False, "this one is fine", RUN)
    assert memory.mode.on


def test_an_order_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="reason"):
        OperatorMode(tmp_path / "operator.json", RunTable()).switch(True, " ", "")
