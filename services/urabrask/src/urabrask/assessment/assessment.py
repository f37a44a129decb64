"""An assessment: the verdict with the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_core.errors import EsperError
from urabrask.assessment.observations import Learning, Observations, Precision, Profile
from urabrask.assessment.stopped import hazard_of
from urabrask.assessment.verdict import Verdict, judge, judge_trial

REFERENCE_PROFILE: Final = "batch=32,float32"
SMALLEST_PROFILE: Final = "batch=1,float32"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure with its unit; the unit is empty where there is none."""

    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is known about a kernel.

    Attributes
    ----------
    verdict : Verdict
        What follows.
    measurements : tuple of Measurement
        What was measured, in order.
    not_measured : tuple of str
        What was not, and why.
    torch_version : str
        torch it was measured with.
    complete : bool
        False when the trial was stopped, so that another one may end otherwise.
    """

    verdict: Verdict
    measurements: tuple[Measurement, ...]
    not_measured: tuple[str, ...]
    torch_version: str
    complete: bool = True


def assessment_of(seen: Observations) -> Assessment:
    """Return the assessment of a trial that ended."""
    return Assessment(judge_trial(seen), measurements_of(seen), seen.not_measured, seen.torch_version)


def assessment_of_stopped(error: EsperError, torch_version: str) -> Assessment:
    """Return the assessment of a trial that was stopped; nothing of it was measured."""
    missing = (f"everything: {error.message}",)
    return Assessment(judge([hazard_of(error)]), (), missing, torch_version, complete=False)


def measurements_of(seen: Observations) -> tuple[Measurement, ...]:
    """Return every figure of a trial under its name."""
    found = [Measurement("parameters", seen.parameter_count)]
    if seen.forward is not None:
        found.append(Measurement("forward.output_ratio", seen.forward.output_ratio))
    if seen.gradients is not None:
        found.append(Measurement("gradients.gain", seen.gradients.gain))
        found.append(Measurement("gradients.weakest", seen.gradients.weakest))
    for run in seen.learning:
        found.extend(_of_learning(run))
    if seen.robustness is not None:
        found.append(Measurement("robustness.contaminated", seen.robustness.contaminated))
        found.append(Measurement("robustness.unsteady", seen.robustness.unsteady))
    found.extend(_of_precision(one) for one in seen.precisions)
    for profile in seen.profiles:
        found.extend(_of_profile(profile))
    if seen.memory_growth_bytes is not None:
        found.append(Measurement("memory.growth", seen.memory_growth_bytes, "By"))
    return tuple(found)


def _of_learning(run: Learning) -> list[Measurement]:
    figures = {"steps": run.steps, "loss_first": run.loss_first, "loss_last": run.loss_last, "rises": run.rises}
    return [Measurement(f"learning.{run.optimizer}.{name}", value) for name, value in figures.items()]


def _of_precision(one: Precision) -> Measurement:
    return Measurement(f"precision.{one.dtype}.relative_error", one.relative_error)


def _of_profile(profile: Profile) -> list[Measurement]:
    return [
        Measurement(p50_name(profile.name), profile.p50_ms, "ms"),
        Measurement(p95_name(profile.name), profile.p95_ms, "ms"),
        Measurement(f"throughput[{profile.name}]", profile.throughput_per_s, "1/s"),
    ]


def p50_name(profile: str) -> str:
    """Return the name of a profile's median latency."""
    return f"latency_p50[{profile}]"


def p95_name(profile: str) -> str:
    """Return the name of a profile's 95th percentile."""
    return f"latency_p95[{profile}]"
