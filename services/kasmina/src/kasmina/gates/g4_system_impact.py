"""G4: merit. The seed must help on held-out data, and the whole must not be worse than it would have been without it.

Both halves are needed: a seed that the host has come to lean on passes the counterfactual without ever having helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from esper_core import leyline
from kasmina.evidence import Improvement, Probe
from kasmina.gates.limits import GateLimits
from kasmina.gates.verdict import Check, Verdict, above, at_least, judge


def pooled(probes: Sequence[Probe]) -> tuple[float, float, float]:
    """Return mean contribution and the mean ends of its interval.

    The half-widths are averaged, not divided by the root of their number: the probes share their held-out data, so
    that repeating one does not make it surer.
    """
    centre = fmean(probe.contribution for probe in probes)
    half = fmean(probe.half_width for probe in probes)
    return centre, centre - half, centre + half


def judge_system_impact(
    probes: Sequence[Probe], improvement: Improvement | None, limits: GateLimits, *, final: bool = False
) -> Verdict:
    """Judge merit on the latest probes.

    Undecided until enough were made, and while the interval of the contribution holds zero: a small merit takes time
    to show. At the last fence (`final`) one probe is enough, because nothing changes between two.
    """
    needed = 1 if final else limits.probes_min
    recent = tuple(probes)[-needed:]
    gate = leyline.SEED_GATE_G4_SYSTEM_IMPACT
    if len(recent) < needed:
        return judge(gate, [], "", missing=[f"{needed - len(recent)} more contribution probes"])
    contribution, overall = _contribution(recent, limits), _improvement(improvement, limits)
    if not contribution.threshold.passed and pooled(recent)[2] > limits.contribution_low_min:
        return judge(gate, overall, "", open_yet=contribution)
    return judge(gate, [contribution, *overall], _success(recent, improvement))


def _success(recent: Sequence[Probe], improvement: Improvement | None) -> str:
    centre, low, high = pooled(recent)
    told = "" if improvement is None else f" Total improvement {improvement.improvement:+.4f}."
    return f"The seed lowers held-out loss by {centre:.4f} (95 % interval {low:.4f} to {high:.4f}).{told}"


def _contribution(recent: Sequence[Probe], limits: GateLimits) -> Check:
    _, low, high = pooled(recent)
    sentence = f"Its contribution cannot be told from nothing: the interval reaches from {low:.4f} to {high:.4f}."
    return above("contribution_ci_low", low, limits.contribution_low_min, "no_contribution", sentence)


def _improvement(improvement: Improvement | None, limits: GateLimits) -> list[Check]:
    if improvement is None:
        return []
    forgiven = limits.improvement_tolerance * abs(improvement.expected_loss)
    floor = -(limits.improvement_z * improvement.standard_error + forgiven)
    sentence = "It made itself necessary without helping: the loss lies above the curve from before germination."
    return [at_least("improvement", improvement.improvement, floor, "necessary_without_helping", sentence)]
