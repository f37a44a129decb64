"""Evidence."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import from_timestamp, to_timestamp
from kasmina.evidence import Evidence, Improvement, Probe

_SAME: Final = ("generation", "epoch", "alpha", "finite", "isolation_violations", "alpha_monotone", "boundary")
_OPTIONAL: Final = (
    "gradient_norm",
    "host_gradient_norm",
    "isolation_cosine",
    "latency_ms",
    "output_norm",
    "host_output_norm",
    "loss",
    "loss_at_germination",
    "seed_loss",
    "alpha_mean",
    "alpha_p95",
    "sparsity",
    "gate_mean",
    "compiled",
    "steps_remaining",
)


def evidence_from_message(message: leyline.SeedEvidence) -> Evidence:
    """Convert evidence; an absent optional number stays absent."""
    same: dict[str, Any] = {name: getattr(message, name) for name in (*_SAME, "removed_cleanly")}
    optional: dict[str, Any] = {name: _given(message, name) for name in _OPTIONAL}
    return Evidence(
        run_id=message.training_run_id,
        seed_id=message.seed_id,
        step=message.global_step,
        stage=message.stage,
        contribution=_probe(message) if message.HasField("contribution") else None,
        improvement=_improvement(message.improvement) if message.HasField("improvement") else None,
        measured_at=from_timestamp(message.measured_at) if message.HasField("measured_at") else None,
        host_layers_present=tuple(message.host_layers_present),
        **same,
        **optional,
    )


def _given(message: Message, name: str) -> float | None:
    return getattr(message, name) if message.HasField(name) else None


def _probe(message: leyline.SeedEvidence) -> Probe:
    probe = message.contribution
    return Probe(
        mean_loss_with=probe.mean_loss_with,
        mean_loss_without=probe.mean_loss_without,
        contribution=probe.contribution,
        ci_low=probe.ci_low,
        ci_high=probe.ci_high,
        examples=probe.examples,
        step=message.global_step,
    )


def _improvement(message: leyline.ImprovementProbe) -> Improvement:
    return Improvement(message.expected_loss, message.observed_loss, message.improvement, message.standard_error)


def evidence_to_message(evidence: Evidence) -> leyline.SeedEvidence:
    """Convert evidence back, for those who ask about a seed."""
    present = {name: getattr(evidence, name) for name in _OPTIONAL if getattr(evidence, name) is not None}
    message = leyline.SeedEvidence(
        training_run_id=evidence.run_id,
        seed_id=evidence.seed_id,
        global_step=evidence.step,
        stage=leyline.SeedStage.ValueType(evidence.stage),
        host_layers_present=evidence.host_layers_present,
        removed_cleanly=evidence.removed_cleanly,
        **{name: getattr(evidence, name) for name in _SAME},
        **present,
    )
    if evidence.contribution is not None:
        message.contribution.CopyFrom(probe_to_message(evidence.contribution))
    if evidence.improvement is not None:
        message.improvement.CopyFrom(_improvement_to_message(evidence.improvement))
    if evidence.measured_at is not None:
        message.measured_at.CopyFrom(to_timestamp(evidence.measured_at))
    return message


def probe_to_message(probe: Probe) -> leyline.ContributionProbe:
    """Convert a counterfactual."""
    return leyline.ContributionProbe(
        mean_loss_with=probe.mean_loss_with,
        mean_loss_without=probe.mean_loss_without,
        contribution=probe.contribution,
        ci_low=probe.ci_low,
        ci_high=probe.ci_high,
        examples=probe.examples,
    )


def _improvement_to_message(improvement: Improvement) -> leyline.ImprovementProbe:
    return leyline.ImprovementProbe(
        expected_loss=improvement.expected_loss,
        observed_loss=improvement.observed_loss,
        improvement=improvement.improvement,
        standard_error=improvement.standard_error,
    )
