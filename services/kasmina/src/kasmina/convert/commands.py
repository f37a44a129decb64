"""Commands, blends and outcomes."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.blueprints.messages import parameters_from_messages
from esper_core.clocks import from_timestamp, to_timestamp
from kasmina.blend import Blend
from kasmina.commands import Command, OptimizerAdjustment, Outcome, Payload, SeedOperation, TrainerOrder


def command_from_message(message: leyline.AdaptationCommand) -> Command:
    """Convert a verified command.

    Raises
    ------
    ValidationError
        If a blueprint parameter has no value or comes twice.
    """
    return Command(
        command_id=message.command_id,
        run_id=message.training_run_id,
        kind=message.type,
        generation=message.based_on_generation,
        seed_id=message.target_seed_id,
        site=message.target_site,
        deadline=from_timestamp(message.execution_deadline) if message.HasField("execution_deadline") else None,
        payload=_payload(message),
        decided_at_step=message.decided_at_step,
    )


def _payload(message: leyline.AdaptationCommand) -> Payload:
    which = message.WhichOneof("payload")
    if which is None:
        return None
    if which == "seed_operation":
        return _seed_operation(message.seed_operation)
    if which == "optimizer":
        return OptimizerAdjustment(message.optimizer.learning_rate_factor, message.optimizer.group)
    return TrainerOrder(which)


def _seed_operation(message: leyline.CommandSeedOperation) -> SeedOperation:
    return SeedOperation(
        operation=message.operation,
        blueprint_id=message.blueprint_id,
        parameters=parameters_from_messages(message.parameters),
        blend=blend_from_message(message.blend) if message.HasField("blend") else None,
        resume=message.resume,
        include_teacher=message.include_teacher,
        isolation=message.isolation,
    )


_OPTIONAL = ("gate_k", "gate_tau", "alpha_lo", "alpha_hi")


def blend_from_message(message: leyline.BlendConfig) -> Blend:
    """Convert a blend; an absent optional number stays absent."""
    gate: dict[str, Any] = {name: _given(message, name) for name in _OPTIONAL}
    return Blend(
        mode=message.mode,
        target_alpha=message.target_alpha,
        schedule=message.schedule,
        start_steps=message.start_steps,
        end_steps=message.end_steps,
        alpha_vec=tuple(message.alpha_vec),
        confidence_logits_required=message.confidence_logits_required,
        source=message.source,
        **gate,
    )


def _given(message: Message, name: str) -> float | None:
    return getattr(message, name) if message.HasField(name) else None


def blend_to_message(blend: Blend) -> leyline.BlendConfig:
    """Convert a blend."""
    return leyline.BlendConfig(
        mode=leyline.BlendMode.ValueType(blend.mode),
        target_alpha=blend.target_alpha,
        schedule=leyline.AlphaSchedule.ValueType(blend.schedule),
        start_steps=blend.start_steps,
        end_steps=blend.end_steps,
        alpha_vec=blend.alpha_vec,
        gate_k=blend.gate_k,
        gate_tau=blend.gate_tau,
        alpha_lo=blend.alpha_lo,
        alpha_hi=blend.alpha_hi,
        confidence_logits_required=blend.confidence_logits_required,
        source=blend.source,
    )


def outcome_to_message(outcome: Outcome) -> leyline.CommandOutcome:
    """Convert what became of a command."""
    return leyline.CommandOutcome(
        command_id=outcome.command_id,
        training_run_id=outcome.run_id,
        accepted=outcome.accepted,
        reject_reason=leyline.RejectReason.ValueType(outcome.reject_reason),
        explanation=outcome.explanation,
        seed_id=outcome.seed_id,
        decided_at=to_timestamp(outcome.decided_at),
    )
