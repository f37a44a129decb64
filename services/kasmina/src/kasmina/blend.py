"""How a seed is blended: the one place where blend settings are checked and completed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from esper_core import leyline
from esper_core.errors import ValidationError

MAX_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Blend:
    """A checked blend configuration; steps count from the start of BLENDING. Fields follow `leyline.BlendConfig`."""

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
    _check_mode(blend, supported)
    _check_alpha("blend.target_alpha", blend.target_alpha)
    if blend.schedule == 0 or blend.schedule not in leyline.AlphaSchedule.values():
        raise _refused("blend.schedule", blend.schedule, leyline.AlphaSchedule.keys()[1:])
    if 0 < blend.end_steps < blend.start_steps:
        raise _refused("blend.end_steps", blend.end_steps, f"{blend.start_steps} or more")
    if blend.mode == leyline.BLEND_MODE_CHANNEL:
        _check_channels(blend, channels)
    if blend.mode == leyline.BLEND_MODE_CONFIDENCE:
        _check_confidence(blend)


def _check_mode(blend: Blend, supported: tuple[int, ...]) -> None:
    known = supported or tuple(v for v in leyline.BlendMode.values() if v)
    if blend.mode not in known:
        allowed = [leyline.BlendMode.Name(leyline.BlendMode.ValueType(mode)) for mode in known]
        raise _refused("blend.mode", blend.mode, allowed)


def _check_alpha(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise _refused(field, value, "a number from 0 to 1")


def _check_channels(blend: Blend, channels: int) -> None:
    count = len(blend.alpha_vec)
    if not 1 <= count <= MAX_CHANNELS or count != channels:
        raise _refused("blend.alpha_vec", count, f"{channels} factors, at most {MAX_CHANNELS}")
    for index, value in enumerate(blend.alpha_vec):
        if not (math.isfinite(value) and value >= 0.0):
            raise _refused(f"blend.alpha_vec[{index}]", value, "a finite number of at least 0")


def _check_confidence(blend: Blend) -> None:
    for name in ("gate_k", "gate_tau", "alpha_lo", "alpha_hi"):
        value: float | None = getattr(blend, name)
        if value is None or not math.isfinite(value):
            raise _refused(f"blend.{name}", value, "a finite number; CONFIDENCE needs it")
    low, high = blend.alpha_lo or 0.0, blend.alpha_hi or 0.0
    _check_alpha("blend.alpha_lo", low)
    _check_alpha("blend.alpha_hi", high)
    if low > high:
        raise _refused("blend.alpha_lo", low, f"at most alpha_hi, which is {high:g}")


def _refused(field: str, value: object, allowed: str | list[str]) -> ValidationError:
    text = allowed if isinstance(allowed, str) else ", ".join(allowed)
    return ValidationError(f"{field} cannot be {value!r}; allowed is {text}.", field=field, allowed=allowed)
