"""The one place where Leyline's BlendConfig is read and written."""

from __future__ import annotations

from esper_core import leyline
from esper_runtime.blending import BlendSpec
from esper_runtime.errors import BlendError
from esper_runtime.modes import CONFIDENCE


def blend_from_message(message: leyline.BlendConfig) -> BlendSpec:
    """Read blend settings; whatever the mode needs must be there.

    Raises
    ------
    BlendError
        If a setting is missing, out of bounds, or belongs to another mode.
    """
    gate = {field: getattr(message, field) for field in ("gate_k", "gate_tau") if message.HasField(field)}
    bounds = {field: getattr(message, field) for field in ("alpha_lo", "alpha_hi") if message.HasField(field)}
    if bounds and message.mode != CONFIDENCE:
        raise BlendError(
            "Only CONFIDENCE blending has alpha bounds.", field=next(iter(bounds)), allowed="no bounds in this mode"
        )
    return BlendSpec(
        mode=message.mode,
        target_alpha=message.target_alpha,
        schedule=message.schedule,
        alpha_vec=tuple(message.alpha_vec),
        **gate,
        **bounds,
    )


def blend_to_message(blend: BlendSpec, *, start_steps: int = 0, end_steps: int = 0) -> leyline.BlendConfig:
    """Write blend settings; the steps count from the start of BLENDING."""
    message = leyline.BlendConfig(
        mode=leyline.BlendMode.ValueType(blend.mode),
        target_alpha=blend.target_alpha,
        schedule=leyline.AlphaSchedule.ValueType(blend.schedule),
        start_steps=start_steps,
        end_steps=end_steps,
        alpha_vec=blend.alpha_vec,
    )
    if blend.mode == CONFIDENCE:
        message.gate_k, message.gate_tau = blend.gate_k or 0.0, blend.gate_tau or 0.0
        message.alpha_lo, message.alpha_hi = blend.alpha_lo, blend.alpha_hi
        message.confidence_logits_required = True
    return message
