"""The local judge: safe or not, earned its place or not, by Kasmina's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esper_runtime import stages
from esper_runtime.counterfactual import Contribution
from esper_runtime.improvement import Improvement
from esper_runtime.own_loop.judge import judge_merit, judge_safety
from esper_runtime.own_loop.rules import SHARES, Limits, Pace
from esper_runtime.own_loop.schedulers import follow_groups
from kasmina.dwell import DwellPolicy
from kasmina.gates import GateLimits

GOOD = Contribution(0.1, 0.01, 0.08, 0.12, 256, 0.9, 1.0, 0.5, 1.0, True)
PROMISE = Improvement(expected_loss=0.95, observed_loss=0.9, standard_error=0.01)


def test_where_kasmina_has_a_number_the_session_has_the_same() -> None:
    ours, hers = Limits(), GateLimits()
    assert all(getattr(ours, name) == getattr(hers, name) for name in Limits.__slots__)
    dwell = DwellPolicy()
    for steps in (100, 2_000, 50_000):
        pace = Pace.of_budget(steps)
        assert all(pace.dwell(stage) == dwell.steps(stage, steps) for stage in SHARES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "safe"),
        ({"finite": False}, "non_finite"),
        ({"loss_with": 2.1}, "loss_exploded"),
        ({"loss_with": float("nan")}, "non_finite"),
        ({"output_ratio": 4.5}, "output_too_strong"),
        ({"low": -1.0, "mean": -0.5}, "safe"),
    ],
)
def test_safety_looks_at_harm_and_never_at_merit(changes: dict[str, float], reason: str) -> None:
    finding = judge_safety(replace(GOOD, **changes), 1.0, Limits())  # type: ignore[arg-type]
    assert (finding.reason, finding.passed) == (reason, reason == "safe")


@pytest.mark.parametrize(
    ("probes", "promise", "reason"),
    [
        ([GOOD, GOOD], PROMISE, "helps"),
        ([GOOD], PROMISE, "too_few_probes"),
        ([GOOD, replace(GOOD, low=-0.2)], PROMISE, "no_contribution"),
        ([replace(GOOD, low=0.0)] * 2, PROMISE, "no_contribution"),
        ([GOOD, GOOD], replace(PROMISE, expected_loss=0.8), "necessary_without_helping"),
        ([GOOD, GOOD], replace(PROMISE, expected_loss=0.89), "helps"),
        ([GOOD, GOOD], replace(PROMISE, expected_loss=0.8, standard_error=0.1), "helps"),
    ],
)
def test_merit_needs_a_contribution_and_a_loss_no_worse_than_promised(
    probes: list[Contribution], promise: Improvement, reason: str
) -> None:
    finding = judge_merit(probes, promise, Limits())
    assert (finding.reason, finding.passed) == (reason, reason == "helps")


def test_the_usual_pace_blends_over_a_twentieth_of_the_budget() -> None:
    pace = Pace.of_budget(2_000)
    assert (pace.blending, pace.life, pace.pulse) == (100, 240, 20)
    assert pace.dwell(stages.BLENDING) == 100


def test_schedulers_forget_groups_that_went_away() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights[:1], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    optimizer.add_param_group({"params": weights[1:], "lr": 0.1})
    follow_groups([scheduler], optimizer)
    assert len(scheduler.min_lrs) == 2
    for loss in (1.0, 1.0):
        scheduler.step(loss)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])
    del optimizer.param_groups[1]
    follow_groups([scheduler], optimizer)
    assert len(scheduler.min_lrs) == 1
