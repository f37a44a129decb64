"""The small judge of a local session. It is not Kasmina: no signatures, no journal, no gates between the gates.

It asks two things only, with Kasmina's numbers: is the seed safe to go on with, and has it earned its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from esper_runtime.counterfactual import Contribution
from esper_runtime.improvement import Improvement
from esper_runtime.own_loop.rules import Limits


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judge found: whether the seed passed, a word for programs, and a sentence for people."""

    passed: bool
    reason: str
    sentence: str


_SAFE = Finding(True, "safe", "The seed is safe to go on with.")


def judge_loss(loss: float, loss_before: float, limits: Limits) -> Finding:
    """Say whether a held-out loss is finite and not far above what it was before germination."""
    if not math.isfinite(loss):
        return Finding(False, "non_finite", "A held-out loss with the seed is not finite.")
    if loss > limits.loss_ratio_max * loss_before:
        return Finding(
            False,
            "loss_exploded",
            f"The held-out loss is {loss:.4f}, more than {limits.loss_ratio_max:g} times the {loss_before:.4f} "
            "from before germination.",
        )
    return _SAFE


def judge_safety(measured: Contribution, loss_before: float, limits: Limits) -> Finding:
    """Say whether a seed may go on; this judges no merit."""
    if not measured.finite:
        return Finding(False, "non_finite", "A held-out loss with the seed is not finite.")
    if measured.output_ratio > limits.output_ratio_max:
        return Finding(
            False,
            "output_too_strong",
            f"The seed changes its site by {measured.output_ratio:.1f} times the host's own output.",
        )
    return judge_loss(measured.loss_with, loss_before, limits)


def judge_merit(probes: Sequence[Contribution], improvement: Improvement, limits: Limits) -> Finding:
    """Say whether a seed has earned its place.

    Half-widths are averaged, not divided by the root of their number: the probes share their held-out data, so that
    repeating one does not make it surer.

    Parameters
    ----------
    probes : Sequence[Contribution]
        Paired counterfactuals at full alpha.
    improvement : Improvement
        Held-out loss against what the curve from before germination promised.
    limits : Limits
        The bounds.
    """
    if len(probes) < limits.probes_min:
        return Finding(False, "too_few_probes", f"Only {len(probes)} of {limits.probes_min} probes were made.")
    mean, low, high = (fmean(getattr(probe, name) for probe in probes) for name in ("mean", "low", "high"))
    told = f"{mean:+.4f} of held-out loss (95 % interval {low:+.4f} to {high:+.4f})"
    if not low > limits.contribution_low_min:
        return Finding(False, "no_contribution", f"What the seed brings, {told}, cannot be told from nothing.")
    forgiven = limits.improvement_tolerance * abs(improvement.expected_loss)
    if improvement.improvement < -(limits.improvement_z * improvement.standard_error + forgiven):
        return Finding(
            False,
            "necessary_without_helping",
            f"The model leans on the seed ({told}), yet its loss is {improvement.observed_loss:.4f} where the curve "
            f"from before germination promised {improvement.expected_loss:.4f}.",
        )
    return Finding(True, "helps", f"The seed brings {told}.")
