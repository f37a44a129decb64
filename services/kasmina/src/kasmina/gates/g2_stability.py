"""G2: safety before and while the seed meets its host. It judges no merit: early loss anti-predicts the final rank."""

from __future__ import annotations

from esper_core import leyline
from kasmina.evidence import Evidence
from kasmina.gates.limits import GateLimits
from kasmina.gates.verdict import Check, Verdict, at_most, holds, judge

_SMALLEST_LOSS = 1e-6


def judge_stability(evidence: Evidence, limits: GateLimits) -> Verdict:
    """Judge whether a seed may be blended on; undecided until a loss was measured."""
    checks = [
        holds("finite", evidence.finite, "non_finite", "A loss, gradient or output of the seed is not finite."),
        holds("alpha_monotone", evidence.alpha_monotone, "alpha_not_monotone", "Alpha moved against its ramp."),
        *_loss(evidence, limits),
        *_output(evidence, limits),
        *_latency(evidence, limits),
    ]
    missing = [name for name in ("loss", "loss_at_germination") if getattr(evidence, name) is None]
    return judge(leyline.SEED_GATE_G2_STABILITY, checks, "The seed is safe to blend.", missing=missing)


def _loss(evidence: Evidence, limits: GateLimits) -> list[Check]:
    host = evidence.loss_at_germination
    if host is None:
        return []
    observed = [("loss_ratio", evidence.loss), ("seed_loss_ratio", evidence.seed_loss)]
    return [
        at_most(
            name,
            loss / max(host, _SMALLEST_LOSS),
            limits.loss_ratio_max,
            "loss_exploded",
            f"The loss is more than {limits.loss_ratio_max:g} times what it was before germination.",
        )
        for name, loss in observed
        if loss is not None
    ]


def _output(evidence: Evidence, limits: GateLimits) -> list[Check]:
    seed, host = evidence.output_norm, evidence.host_output_norm
    if seed is None or host is None:
        return []
    sentence = f"The seed's output is more than {limits.output_ratio_max:g} times as strong as its host's."
    ratio = seed / max(host, 1e-12)
    return [at_most("output_ratio", ratio, limits.output_ratio_max, "output_too_strong", sentence)]


def _latency(evidence: Evidence, limits: GateLimits) -> list[Check]:
    if evidence.latency_ms is None:
        return []
    sentence = f"The seed costs more than {limits.latency_ms_max:g} ms of forward time."
    return [at_most("latency_ms", evidence.latency_ms, limits.latency_ms_max, "latency_over_budget", sentence)]
