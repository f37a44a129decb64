"""The one place where Leyline's BlendConfig is read and written as settings."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blending.spec import GATE_FIELDS, BlendSpec


def blend_from_message(message: leyline.BlendConfig) -> BlendSpec:
    """Read blend settings; whatever the mode needs must be there.

    Raises
    ------
    BlendError
        If a setting is missing, out of bounds, or belongs to another mode.
    """
    return BlendSpec(
        mode=message.mode,
        target_alpha=message.target_alpha,
        schedule=message.schedule,
        alpha_vec=tuple(message.alpha_vec),
        **{name: getattr(message, name) for name in GATE_FIELDS if message.HasField(name)},
    )


def blend_to_message(blend: BlendSpec, *, start_steps: int = 0, end_steps: int = 0) -> leyline.BlendConfig:
    """Write blend settings; the steps count from the start of BLENDING."""
    return leyline.BlendConfig(
        mode=leyline.BlendMode.ValueType(blend.mode),
        target_alpha=blend.target_alpha,
        schedule=leyline.AlphaSchedule.ValueType(blend.schedule),
        start_steps=start_steps,
        end_steps=end_steps,
        alpha_vec=blend.alpha_vec,
        gate_k=blend.gate_k,
        gate_tau=blend.gate_tau,
        alpha_lo=blend.alpha_lo,
        alpha_hi=blend.alpha_hi,
        confidence_logits_required=blend.gate_k is not None,
    )
