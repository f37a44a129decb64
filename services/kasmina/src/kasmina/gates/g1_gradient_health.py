"""G1: the seed is attached, its gradients live, and its host is left alone."""

from __future__ import annotations

from esper_core import leyline
from kasmina.evidence import Evidence
from kasmina.gates.limits import GateLimits
from kasmina.gates.verdict import Check, Verdict, at_least, at_most, holds, judge
from kasmina.lifecycle import ATTACHED


def judge_gradient_health(evidence: Evidence, limits: GateLimits) -> Verdict:
    """Judge the gradients of a seed in TRAINING; undecided until a gradient norm was measured."""
    checks = [
        holds("attached", evidence.stage in ATTACHED, "not_attached", "The runtime does not hold the seed."),
        holds("finite", evidence.finite, "non_finite", "A loss, gradient or output of the seed is not finite."),
        at_most(
            "isolation_violations",
            evidence.isolation_violations,
            0,
            "isolation_violated",
            "The seed touched its host's gradients while it was to learn apart.",
        ),
        *_cosine(evidence, limits),
        *_norm(evidence, limits),
    ]
    missing = ["gradient_norm"] if evidence.gradient_norm is None else []
    return judge(leyline.SEED_GATE_G1_GRADIENT_HEALTH, checks, "Gradients are alive and apart.", missing=missing)


def _cosine(evidence: Evidence, limits: GateLimits) -> list[Check]:
    if evidence.isolation_cosine is None:
        return []
    return [
        at_most(
            "isolation_cosine",
            abs(evidence.isolation_cosine),
            limits.isolation_cosine_max,
            "isolation_violated",
            "Host and seed gradients point the same way although they were to be apart.",
        )
    ]


def _norm(evidence: Evidence, limits: GateLimits) -> list[Check]:
    norm = evidence.gradient_norm
    if norm is None:
        return []
    return [
        at_least("gradient_norm_min", norm, limits.gradient_norm_min, "gradient_vanished", "The seed learns nothing."),
        at_most("gradient_norm_max", norm, limits.gradient_norm_max, "gradient_exploded", "Gradients explode."),
    ]
