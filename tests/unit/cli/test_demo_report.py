"""The demo's report says what the runs show and no more, and stands on its own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esper_cli.demo.plan import BIG, FULL, GROWN, SHORT, SMALL, Search, arm_runs, search_runs
from esper_cli.demo.report import write_report
from esper_cli.demo.results import ArmRun, CurvePoint, DemoResults, SeedStep, SpentBudget
from esper_core import leyline

SUMMARY = {
    "parameters_initial": 1000,
    "parameters_final": 1000,
    "flops": 10**9,
    "inference_flops_per_example": 2000,
    "steps": 100,
    "wall_s": 5.0,
}


def arm_run(arm: str, seed: int, accuracy: float) -> ArmRun:
    grown = arm == GROWN
    timeline = [
        SeedStep(10, 0.1, "R/stem/1", "stem", "mlp_residual.v1", "GERMINATED", "attached & <ready>"),
        SeedStep(14, 0.14, "R/stem/1", "stem", "mlp_residual.v1", "TRAINING", "dwell"),
        SeedStep(18, 0.18, "R/stem/1", "stem", "mlp_residual.v1", "BLENDING", "G2 passed"),
        SeedStep(25, 0.25, "R/stem/1", "stem", "mlp_residual.v1", "FOSSILIZED", "it pays"),
    ]
    summary = {**SUMMARY, "accuracy": accuracy, "parameters_final": 3000 if grown else 1000}
    curve = [CurvePoint(step, step / 100, 1.0, accuracy * step / 100) for step in (10, 50, 100)]
    return ArmRun(arm, seed, summary, curve, timeline if grown else [])


def results(*accuracies: tuple[float, float, float]) -> DemoResults:
    runs = [
        arm_run(arm, seed, accuracy)
        for seed, row in enumerate(accuracies)
        for arm, accuracy in zip((SMALL, BIG, GROWN), row, strict=True)
    ]
    return DemoResults(runs, Search.judged({SMALL: {0.01: 0.5, 0.02: 0.4}, BIG: {0.01: 0.2}}), FULL, 60.0, {"cores": 2})


def test_one_seed_is_told_as_an_example_with_the_sign_it_has() -> None:
    claim = results((0.90, 0.95, 0.94)).claim()
    assert "4.00 points better than the tuned small one" in claim
    assert "1.00 points worse than the tuned big one" in claim
    assert "not a comparison" in claim


def test_a_grown_network_that_lost_is_told_to_have_lost() -> None:
    assert "2.00 points worse than the tuned small one" in results((0.92, 0.95, 0.90)).claim()


def test_several_seeds_are_paired_and_come_with_their_spread() -> None:
    claim = results((0.90, 0.95, 0.94), (0.91, 0.95, 0.93)).claim()
    assert "2 paired seeds" in claim
    assert "3.00 points better than the tuned small one (sd of the difference 1.41 points)" in claim


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = {"src", "href", "xlink:href"}
        self.outside += [value or "" for name, value in attrs if name in fetched and not (value or "").startswith("#")]


def test_the_page_fetches_nothing_and_the_data_holds_every_run(tmp_path: Path) -> None:
    page, data = write_report(results((0.90, 0.95, 0.94)), tmp_path)
    links = Links()
    links.feed(page.read_text())
    assert not links.outside
    assert page.read_text().count("<svg") == 2
    assert "attached &amp; &lt;ready&gt;" in page.read_text()
    assert len(json.loads(data.read_text())["runs"]) == 3


@pytest.mark.parametrize("budget", [FULL, SHORT])
def test_all_arms_may_spend_the_same_and_differ_only_in_what_they_are_about(budget: object) -> None:
    assert budget in (FULL, SHORT)
    chosen = FULL if budget is FULL else SHORT
    arms = arm_runs(chosen, 3, {SMALL: 0.02, BIG: 0.02})
    assert {run.flops for run in arms.values()} == {chosen.flops}
    assert {run.random_seed for run in arms.values()} == {3}
    assert [arms[arm].policy for arm in (SMALL, BIG, GROWN)] == ["none", "none", "schedule"]
    assert all(run.random_seed != 3 for run in search_runs(chosen).values())


def test_the_learning_rate_with_the_lowest_validation_loss_is_chosen() -> None:
    assert Search.judged({SMALL: {0.01: 0.5, 0.02: 0.4, 0.04: 0.6}}).chosen == {SMALL: 0.02}


def test_the_spent_budget_follows_what_the_run_told_not_its_steps() -> None:
    events = [
        leyline.RunEvent(progress=leyline.RunProgress(step=step, fraction=fraction))
        for step, fraction in ((100, 0.1), (200, 0.5), (250, 1.0))
    ]
    spent = SpentBudget.of(events)
    assert [spent.at(step) for step in (0, 50, 100, 150, 250, 300)] == pytest.approx([0, 0.05, 0.1, 0.3, 1, 1])
