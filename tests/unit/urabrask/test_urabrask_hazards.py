"""Each hazard is found where it is, and nowhere else; scores fall into their bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import ResourceExhaustedError, TimeoutExceededError, WorkerCrashedError
from urabrask.assessment.assessment import assessment_of, assessment_of_stopped
from urabrask.assessment.hazards import Hazard, find_hazards
from urabrask.assessment.observations import (
    Forward,
    Gradients,
    Learning,
    Observations,
    Precision,
    Profile,
    Robustness,
)
from urabrask.assessment.verdict import band_of, handling_of, judge, judge_trial, risk_score
from urabrask.trial.memory import steady_growth

HARMLESS = Observations(
    shape_kept=True,
    parameter_count=100,
    declared_parameter_count=100,
    torch_version="2",
    forward=Forward((1, 32), finite=True, output_ratio=0.0, repeatable=True),
    gradients=Gradients(finite=True, gain=0.3, weakest=0.2),
    robustness=Robustness(contaminated=0.0, overflows=False),
    learning=(Learning("adam", 10, 0.25, 0.1, 0.0), Learning("sgd", 10, 0.25, 0.2, 0.0)),
    precisions=(Precision("bfloat16", True, 0.004),),
    profiles=(Profile(32, "float32", "cpu", 0.1, 0.2, 40),),
    memory_growth_bytes=4096,
)
FORWARD = Forward((1,), finite=True, output_ratio=0.0, repeatable=True)
GRADIENTS = Gradients(finite=True, gain=0.3, weakest=0.2)

FOUND = [
    (replace(HARMLESS, shape_kept=False), "wrong_shape"),
    (replace(HARMLESS, parameter_count=101), "miscounted_parameters"),
    (replace(HARMLESS, forward=replace(FORWARD, finite=False, output_ratio=math.inf)), "non_finite_output"),
    (replace(HARMLESS, gradients=replace(GRADIENTS, finite=False)), "non_finite_gradient"),
    (replace(HARMLESS, gradients=replace(GRADIENTS, gain=50.0)), "exploding_gradient"),
    (replace(HARMLESS, gradients=replace(GRADIENTS, weakest=1e-9)), "vanishing_gradient"),
    (replace(HARMLESS, gradients=replace(GRADIENTS, weakest=0.0)), "vanishing_gradient"),
    (replace(HARMLESS, forward=replace(FORWARD, output_ratio=0.1)), "not_zero_effect"),
    (replace(HARMLESS, learning=(Learning("sgd", 3, 0.25, math.inf, math.inf),)), "diverges"),
    (replace(HARMLESS, learning=(Learning("adam", 10, 0.25, 0.2, 0.7),)), "oscillates"),
    (replace(HARMLESS, forward=replace(FORWARD, repeatable=False)), "not_repeatable"),
    (replace(HARMLESS, robustness=Robustness(0.5, overflows=False)), "contaminates_batch"),
    (replace(HARMLESS, robustness=Robustness(0.0, overflows=True)), "overflows"),
    (replace(HARMLESS, precisions=(Precision("float16", False, math.inf),)), "loses_precision"),
    (replace(HARMLESS, profiles=(Profile(32, "float32", "cpu", 80.0, 90.0, 5),)), "slow"),
    (replace(HARMLESS, memory_growth_bytes=1 << 30), "leaks_memory"),
    (replace(HARMLESS, robustness=Robustness(0.0, overflows=False, unsteady=2.0)), "unsteady"),
]


@pytest.mark.req("URB-1")
def test_a_harmless_trial_has_no_hazards() -> None:
    verdict = judge_trial(HARMLESS)
    assert verdict.hazards == ()
    assert verdict.handling_class == leyline.HANDLING_CLASS_STANDARD


@pytest.mark.req("URB-1")
@pytest.mark.parametrize(("seen", "name"), FOUND, ids=[name for _, name in FOUND])
def test_each_hazard_is_found_alone_and_says_what_to_do(seen: Observations, name: str) -> None:
    (hazard,) = find_hazards(seen)
    assert hazard.name == name
    assert 0 < hazard.severity <= 1
    assert hazard.description.endswith(".")
    assert hazard.mitigation.endswith(".")


def test_an_output_that_is_too_strong_is_worse_than_one_that_is_not_zero() -> None:
    names = [hazard.name for hazard in find_hazards(replace(HARMLESS, forward=replace(FORWARD, output_ratio=15.0)))]
    assert names == ["oversized_output", "not_zero_effect"]


def test_a_loss_that_jumps_under_too_large_a_rate_is_no_reason_for_quarantine() -> None:
    wide = replace(HARMLESS, learning=(Learning("adam", 10, 0.25, 0.3, 4.4),))
    assert judge_trial(wide).handling_class == leyline.HANDLING_CLASS_STANDARD


def test_time_that_is_not_spent_on_computing_is_told_from_time_that_is() -> None:
    late = replace(HARMLESS, profiles=(Profile(128, "float32", "cpu", 80.0, 90.0, 5),), values_per_example=64)
    found = {flops: [one.name for one in find_hazards(replace(late, flops_per_example=flops))] for flops in (0, 10**8)}
    assert found == {0: ["stalls", "slow"], 10**8: ["slow"]}


@pytest.mark.parametrize(
    ("readings", "growth"),
    [(range(11), 10), ([5] + [95] * 10, 0), ([0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 99], 0), (range(9, -2, -1), 0), ([5], 0)],
)
def test_only_memory_that_goes_on_growing_counts(readings: Sequence[int], growth: int) -> None:
    assert steady_growth(readings) == growth


@pytest.mark.parametrize(
    ("score", "band", "handling"),
    [
        (0.0, leyline.HAZARD_BAND_LOW, leyline.HANDLING_CLASS_STANDARD),
        (0.299, leyline.HAZARD_BAND_LOW, leyline.HANDLING_CLASS_STANDARD),
        (0.30, leyline.HAZARD_BAND_MEDIUM, leyline.HANDLING_CLASS_STANDARD),
        (0.599, leyline.HAZARD_BAND_MEDIUM, leyline.HANDLING_CLASS_STANDARD),
        (0.60, leyline.HAZARD_BAND_HIGH, leyline.HANDLING_CLASS_RESTRICTED),
        (0.849, leyline.HAZARD_BAND_HIGH, leyline.HANDLING_CLASS_RESTRICTED),
        (0.85, leyline.HAZARD_BAND_CRITICAL, leyline.HANDLING_CLASS_QUARANTINE),
        (1.0, leyline.HAZARD_BAND_CRITICAL, leyline.HANDLING_CLASS_QUARANTINE),
    ],
)
def test_bands_begin_where_the_contract_says(
    score: float, band: leyline.HazardBand.ValueType, handling: leyline.HandlingClass.ValueType
) -> None:
    assert band_of(score) == band
    assert handling_of(band) == handling


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_a_score_outside_of_its_range_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        band_of(score)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_another_hazard_never_lowers_the_score(severities: list[float], another: float) -> None:
    hazards = [Hazard("one", "It is.", severity, "Do.") for severity in severities]
    before = risk_score(hazards)
    after = risk_score([*hazards, Hazard("two", "It is.", another, "Do.")])
    assert 0 <= before <= after <= 1
    assert after >= round(another, 6)


def test_the_verdict_names_what_to_do_about_the_worst() -> None:
    verdict = judge([Hazard("mild", "It is.", 0.1, "Mind it."), Hazard("bad", "It is.", 0.7, "Leave it.")])
    assert [hazard.name for hazard in verdict.hazards] == ["bad", "mild"]
    assert verdict.mitigation == "Leave it."


@pytest.mark.parametrize(
    ("error", "name", "band"),
    [
        (TimeoutExceededError("It took too long."), "time_limit_exceeded", leyline.HAZARD_BAND_HIGH),
        (ResourceExhaustedError("It took too much."), "memory_limit_exceeded", leyline.HAZARD_BAND_HIGH),
        (WorkerCrashedError("It died."), "process_died", leyline.HAZARD_BAND_CRITICAL),
    ],
)
def test_a_stopped_trial_is_a_hazard_and_invents_nothing(
    error: TimeoutExceededError, name: str, band: leyline.HazardBand.ValueType
) -> None:
    assessment = assessment_of_stopped(error, "2")
    assert [hazard.name for hazard in assessment.verdict.hazards] == [name]
    assert assessment.verdict.hazard_band == band
    assert assessment.measurements == ()
    assert "everything" in assessment.not_measured[0]
    assert not assessment.complete


def test_every_figure_of_a_trial_is_on_the_sheet_once() -> None:
    names = [one.name for one in assessment_of(HARMLESS).measurements]
    assert len(names) == len(set(names))
    assert {"gradients.gain", "learning.sgd.loss_last", "latency_p95[batch=32,float32]"} <= set(names)
