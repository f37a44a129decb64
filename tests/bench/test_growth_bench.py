"""The growth benchmark runs to its report, gives the same twice, and sees what a toxic blueprint does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.growth import command
from benchmarks.growth.arms import COLD, by_name, course_of, spec_of
from benchmarks.growth.goals import goals
from benchmarks.growth.run import Point, Trained, train
from benchmarks.growth.shock import worst_shock

SHORT_RUN = 250_000_000


def test_the_quick_form_runs_to_its_report(tmp_path: Path) -> None:
    assert command.main(["--quick", "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "growth.json").read_text())["figures"]
    assert set(figures["letter cold"]["arms"]) == {arm.name for arm in COLD}
    spent = [run["flops"] for arm in figures["letter cold"]["arms"].values() for run in arm["runs"]]
    assert min(spent) > 0.95 * max(spent)
    (toxic,) = figures["letter toxic"]["runs"]
    assert toxic["protected"]["exact"] == toxic["gates and rollback"]["exact"] == [True]
    assert toxic["gates alone"]["ends"]
    page = (tmp_path / "growth.md").read_text()
    assert "## Method" in page and "not measured" in page


def test_a_grown_run_gives_the_same_twice() -> None:
    arm = by_name(COLD)["fixed schedule"]
    first, second = (train(spec_of(arm, "letter", SHORT_RUN, 0.01, 3), course_of(arm, 3)) for _ in range(2))
    assert (first.score, first.validation, first.steps, first.curve) == (
        second.score,
        second.validation,
        second.steps,
        second.curve,
    )
    assert [seed["site"] for seed in first.seeds] == [seed["site"] for seed in second.seeds] != []


def test_nothing_that_was_not_measured_counts_as_met() -> None:
    assert {goal.verdict for goal in goals({})} == {"not measured"}


def test_a_shock_is_the_rise_after_a_germination() -> None:
    curve = [Point(step, step / 100, loss) for step, loss in ((10, 1.0), (20, 0.8), (25, 0.9), (60, 2.0))]
    run = Trained(90.0, 90.0, 10, 20, 1, 1, 0.0, 100, 0, [{"germinated_step": 20}], curve=curve)
    assert worst_shock(run) == pytest.approx(0.125)
