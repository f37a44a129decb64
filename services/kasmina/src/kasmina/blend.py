"""How a seed is blended, as a command says it: completed with a ramp, and checked as the runtime will check it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from esper_core import leyline
from esper_core.blending import BlendError, BlendSpec
from esper_core.errors import ValidationError

_SETTINGS: Final = tuple(field.name for field in fields(BlendSpec))


@dataclass(frozen=True, slots=True)
class Blend:
    """A blend configuration as it was sent; steps count from the start of BLENDING, fields follow Leyline's."""

    mode: int
    target_alpha: float
    schedule: int
    start_steps: int
    end_steps: int
    alpha_vec: tuple[float, ...] = ()
    gate_k: float | None = None
    gate_tau: float | None = None
    alpha_lo: float | None = None
    alpha_hi: float | None = None
    confidence_logits_required: bool = False
    source: str = ""


def default_blend(steps: int) -> Blend:
    """Return what applies when nothing is said: residual, linear to full alpha over `steps`, from a zero effect."""
    return Blend(leyline.BLEND_MODE_RESIDUAL, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, steps, source="kasmina.default")


def completed(blend: Blend, steps: int) -> Blend:
    """Give a blend without a ramp the default length; everything else stays as the sender wrote it."""
    if blend.end_steps > blend.start_steps:
        return blend
    return replace(blend, end_steps=blend.start_steps + steps)


def check_blend(blend: Blend, channels: int, supported: tuple[int, ...] = ()) -> None:
    """Refuse a blend that cannot be carried out.

    Parameters
    ----------
    blend : Blend
        What the command asks for.
    channels : int
        Channels at the site.
    supported : tuple of int
        Modes of the blueprint; empty means any.

    Raises
    ------
    ValidationError
        Naming the field and what is allowed.
    """
    if supported and blend.mode not in supported:
        names = [leyline.BlendMode.Name(leyline.BlendMode.ValueType(mode)) for mode in supported]
        raise _refused("blend.mode", blend.mode, names)
    if 0 < blend.end_steps < blend.start_steps:
        raise _refused("blend.end_steps", blend.end_steps, f"{blend.start_steps} or more")
    try:
        BlendSpec(**{name: getattr(blend, name) for name in _SETTINGS}).check_channels(channels)
    except BlendError as error:
        raise ValidationError(error.message, field=f"blend.{error.field}", allowed=error.allowed) from error


def _refused(field: str, value: object, allowed: str | list[str]) -> ValidationError:
    text = allowed if isinstance(allowed, str) else ", ".join(allowed)
    return ValidationError(f"{field} cannot be {value!r}; allowed is {text}.", field=field, allowed=allowed)
