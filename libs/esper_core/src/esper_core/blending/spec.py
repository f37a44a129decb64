"""One seed's blend settings: the one place where they are checked, on either side of the wire. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper_core.blending.modes import ALPHA_SCHEDULES, BLEND_MODES, CHANNEL, CONFIDENCE, LINEAR, RESIDUAL
from esper_core.blueprints.contract import SiteContract
from esper_core.errors import ValidationError

MAX_ALPHA_VEC: Final = 64
GATE_FIELDS: Final = ("gate_k", "gate_tau", "alpha_lo", "alpha_hi")
"""What CONFIDENCE needs and no other mode has."""


class BlendError(ValidationError):
    """A blend configuration is incomplete or out of bounds."""


@dataclass(frozen=True, slots=True)
class BlendSpec:
    """One seed's blend settings, checked once when they are made.

    Parameters
    ----------
    mode : int
        A value of Leyline's BlendMode.
    target_alpha : float
        Alpha at the end of the ramp, in (0, 1].
    schedule : int
        A value of Leyline's AlphaSchedule.
    alpha_vec : tuple of float
        CHANNEL only: 1 to 64 factors in [0, 1], one per channel of the site.
    gate_k, gate_tau : float, optional
        CONFIDENCE only, both required: slope (> 0) and threshold of the gate on the logit margin.
    alpha_lo, alpha_hi : float, optional
        CONFIDENCE only, both required: bounds of the effective alpha, 0 <= lo <= hi <= 1.

    Raises
    ------
    BlendError
        If a value is missing, out of bounds, or belongs to another mode.
    """

    mode: int = RESIDUAL
    target_alpha: float = 1.0
    schedule: int = LINEAR
    alpha_vec: tuple[float, ...] = ()
    gate_k: float | None = None
    gate_tau: float | None = None
    alpha_lo: float | None = None
    alpha_hi: float | None = None

    def __post_init__(self) -> None:
        _choice("mode", self.mode, BLEND_MODES)
        _choice("schedule", self.schedule, ALPHA_SCHEDULES)
        if not 0.0 < self.target_alpha <= 1.0:
            raise _refused("target_alpha", self.target_alpha, "a number above 0, at most 1")
        self._check_channel()
        self._check_confidence()

    def _check_channel(self) -> None:
        count = len(self.alpha_vec)
        if self.mode != CHANNEL and count:
            raise _refused("alpha_vec", f"{count} entries", "none in this mode; only CHANNEL has a vector")
        if self.mode == CHANNEL and not 1 <= count <= MAX_ALPHA_VEC:
            raise _refused("alpha_vec", f"{count} entries", f"one factor per channel, at most {MAX_ALPHA_VEC}")
        for index, factor in enumerate(self.alpha_vec):
            if not 0.0 <= factor <= 1.0:
                raise _refused(f"alpha_vec[{index}]", factor, "a number from 0 to 1")

    def _check_confidence(self) -> None:
        for name in GATE_FIELDS:
            value: float | None = getattr(self, name)
            if self.mode != CONFIDENCE and value is not None:
                raise _refused(name, value, "nothing in this mode; only CONFIDENCE has a gate")
            if self.mode == CONFIDENCE and (value is None or not math.isfinite(value)):
                raise _refused(name, value, "a finite number; CONFIDENCE needs it")
        if self.mode == CONFIDENCE:
            self._check_gate(self.gate_k or 0.0, self.alpha_lo or 0.0, self.alpha_hi or 0.0)

    @staticmethod
    def _check_gate(gate_k: float, low: float, high: float) -> None:
        if gate_k <= 0.0:
            raise _refused("gate_k", gate_k, "a number above 0")
        for name, value in (("alpha_lo", low), ("alpha_hi", high)):
            if not 0.0 <= value <= 1.0:
                raise _refused(name, value, "a number from 0 to 1")
        if low > high:
            raise _refused("alpha_lo", low, f"at most alpha_hi, which is {high:g}")

    def check_channels(self, channels: int) -> None:
        """Refuse a vector that does not match the site's channels."""
        if self.alpha_vec and len(self.alpha_vec) != channels:
            raise _refused("alpha_vec", f"{len(self.alpha_vec)} entries", f"{channels} factors, one per channel")

    def check_contract(self, contract: SiteContract) -> None:
        """Refuse settings that do not fit a site."""
        self.check_channels(contract.channels)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {
            "mode": self.mode,
            "target_alpha": self.target_alpha,
            "schedule": self.schedule,
            "alpha_vec": list(self.alpha_vec),
            **{name: getattr(self, name) for name in GATE_FIELDS},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BlendSpec:
        """Read settings written by `to_dict`."""
        return cls(**{**data, "alpha_vec": tuple(data.get("alpha_vec", ()))})


def _choice(field: str, value: int, known: dict[int, str]) -> None:
    if value not in known:
        raise _refused(field, value, known.values())


def _refused(field: str, value: object, allowed: str | Iterable[str]) -> BlendError:
    words: str | Sequence[str] = allowed if isinstance(allowed, str) else list(allowed)
    text = words if isinstance(words, str) else ", ".join(words)
    return BlendError(f"{field} cannot be {value}; allowed is {text}.", field=field, allowed=words)
