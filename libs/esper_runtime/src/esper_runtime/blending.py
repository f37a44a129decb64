"""How the output s of a seed meets the output h of its host.

    CONVEX      a*s + (1-a)*h
    RESIDUAL    h + a*s
    CHANNEL     A*s + (1-A)*h        A = clamp(a * alpha_vec), one entry per channel
    CONFIDENCE  e*s + (1-e)*h        e = clamp(a*g, lo, hi), g = sigmoid(k * (top1 - top2 - tau)) per sample

a is clamped to [0, 1]. Nothing is written in place, and alpha stays a tensor, so that no value has to be read back.
The convex forms use `torch.lerp`, which returns h exactly at 0 and s exactly at 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from esper_runtime.contracts import SiteContract
from esper_runtime.errors import BlendError, MissingLogitsError
from esper_runtime.modes import ALPHA_SCHEDULES, BLEND_MODES, CHANNEL, CONFIDENCE, LINEAR, RESIDUAL

MAX_ALPHA_VEC: Final = 64
MAX_OUTPUT_RATIO: Final = 1.0
"""Norm of a straight-through seed's output over that of its host, at most; per sample."""


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
        CHANNEL only: 1 to 64 factors in [0, 1]; one for all channels, or one per channel.
    gate_k, gate_tau : float, optional
        CONFIDENCE only, both required: slope (> 0) and threshold of the gate on the logit margin.
    alpha_lo, alpha_hi : float
        CONFIDENCE only: bounds of the effective alpha, 0 <= lo <= hi <= 1.

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
    alpha_lo: float = 0.0
    alpha_hi: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in BLEND_MODES:
            raise BlendError(
                f"Blend mode {self.mode} does not exist.", field="mode", allowed=list(BLEND_MODES.values())
            )
        if self.schedule not in ALPHA_SCHEDULES:
            raise BlendError(
                f"Alpha schedule {self.schedule} does not exist.",
                field="schedule",
                allowed=list(ALPHA_SCHEDULES.values()),
            )
        if not 0.0 < self.target_alpha <= 1.0:
            raise BlendError(
                f"The target alpha is {self.target_alpha}.", field="target_alpha", allowed="a number in (0, 1]"
            )
        self._check_channel()
        self._check_confidence()

    def _check_channel(self) -> None:
        wanted = self.mode == CHANNEL
        fits = 1 <= len(self.alpha_vec) <= MAX_ALPHA_VEC and all(0.0 <= value <= 1.0 for value in self.alpha_vec)
        if wanted != bool(self.alpha_vec) or (wanted and not fits):
            raise BlendError(
                "CHANNEL blending needs its own vector of factors, and only CHANNEL has one.",
                field="alpha_vec",
                allowed=f"1 to {MAX_ALPHA_VEC} numbers in [0, 1]" if wanted else "no entries in this mode",
            )

    def _check_confidence(self) -> None:
        given = [value for value in (self.gate_k, self.gate_tau) if value is not None and math.isfinite(value)]
        wanted = self.mode == CONFIDENCE
        if len(given) != (2 if wanted else 0) or (wanted and (self.gate_k or 0.0) <= 0.0):
            raise BlendError(
                "CONFIDENCE blending needs gate_k and gate_tau, and only CONFIDENCE has them.",
                field="gate_k" if wanted else "mode",
                allowed="gate_k > 0 and a finite gate_tau" if wanted else "no gate in this mode",
            )
        if not 0.0 <= self.alpha_lo <= self.alpha_hi <= 1.0:
            raise BlendError(
                f"The alpha bounds are {self.alpha_lo} and {self.alpha_hi}.",
                field="alpha_lo",
                allowed="0 <= alpha_lo <= alpha_hi <= 1",
            )

    def check_contract(self, contract: SiteContract) -> None:
        """Refuse a vector that does not match the site's channels."""
        if self.alpha_vec and len(self.alpha_vec) not in (1, contract.channels):
            raise BlendError(
                f"alpha_vec has {len(self.alpha_vec)} entries and the site has {contract.channels} channels.",
                field="alpha_vec",
                allowed=f"1 entry, or {contract.channels}",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {
            "mode": self.mode,
            "target_alpha": self.target_alpha,
            "schedule": self.schedule,
            "alpha_vec": list(self.alpha_vec),
            "gate_k": self.gate_k,
            "gate_tau": self.gate_tau,
            "alpha_lo": self.alpha_lo,
            "alpha_hi": self.alpha_hi,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BlendSpec:
        """Read settings written by `to_dict`."""
        return cls(**{**data, "alpha_vec": tuple(data.get("alpha_vec", ()))})


def convex(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Return a*s + (1-a)*h; `alpha` broadcasts against h."""
    weight = alpha.clamp(0.0, 1.0).to(h.dtype)
    return torch.lerp(h, s.to(h.dtype), weight)


def residual(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Return h + a*s."""
    return h + alpha.clamp(0.0, 1.0).to(h.dtype) * s.to(h.dtype)


def channel(h: Tensor, s: Tensor, alpha: Tensor, alpha_vec: Tensor, channel_dim: int) -> Tensor:
    """Return the convex blend with one factor per channel; `alpha_vec` has 1 or C entries."""
    factors = (alpha.clamp(0.0, 1.0) * alpha_vec).clamp(0.0, 1.0)
    shape = [1] * h.dim()
    shape[channel_dim] = -1
    return convex(h, s, factors.reshape(shape))


def confidence_gate(logits_BK: Tensor, k: float, tau: float) -> Tensor:
    """Return sigmoid(k * (top1 - top2 - tau)) for each sample of the policy's logits, shape (B,).

    Raises
    ------
    BlendError
        If there are fewer than two classes, so that no margin exists.
    """
    if logits_BK.dim() != 2 or logits_BK.shape[-1] < 2:
        raise BlendError(
            f"The policy's logits have shape {tuple(logits_BK.shape)}.",
            field="confidence_logits",
            allowed="(batch, classes) with at least 2 classes",
        )
    top = logits_BK.topk(2, dim=-1).values
    return torch.sigmoid(k * (top[:, 0] - top[:, 1] - tau))


def confidence(h: Tensor, s: Tensor, alpha: Tensor, spec: BlendSpec, logits_BK: Tensor | None) -> Tensor:
    """Return the convex blend with one gate per sample.

    Raises
    ------
    MissingLogitsError
        If the policy has supplied no logits for this batch.
    """
    if logits_BK is None or spec.gate_k is None or spec.gate_tau is None:
        raise MissingLogitsError(
            "CONFIDENCE blending needs the policy's logits for this batch; set them before the forward pass.",
            dependency="confidence_logits",
        )
    gate = confidence_gate(logits_BK, spec.gate_k, spec.gate_tau)
    effective = (alpha.clamp(0.0, 1.0) * gate).clamp(spec.alpha_lo, spec.alpha_hi)
    return convex(h, s, effective.reshape(-1, *([1] * (h.dim() - 1))))


class _StraightThrough(torch.autograd.Function):
    """Forward the host's output untouched, and pass the gradient on to both."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        ctx.seed_dtype = s.dtype
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (alpha,) = ctx.saved_tensors
        return gradient, (gradient * alpha.to(gradient.dtype)).to(ctx.seed_dtype), None


def clipped(s: Tensor, h: Tensor, ratio: float = MAX_OUTPUT_RATIO) -> Tensor:
    """Return s with each sample scaled down to at most `ratio` times the L2 norm of that sample of h.

    Nothing in the loss holds back a seed that is not in the forward pass, so its output would grow without end; where
    the clip bites, the gradient along s is gone and only its direction is learned.
    """
    dims = tuple(range(1, s.dim()))
    limit = ratio * torch.linalg.vector_norm(h.detach(), dim=dims, keepdim=True).to(s.dtype)
    norm = torch.linalg.vector_norm(s, dim=dims, keepdim=True)
    # Dividing by the larger of both gives exactly 1 for a sample within its limit.
    scaled: Tensor = s * (limit / torch.maximum(norm, limit).clamp_min(torch.finfo(s.dtype).tiny))
    return scaled


def straight_through(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Return h bit for bit, while s receives the gradient that h + a*s would have given it.

    The seed must have read a detached h, or the host's gradient would hold a share of the seed's.
    """
    joined: Tensor = _StraightThrough.apply(h, s, alpha.clamp(0.0, 1.0))  # type: ignore[no-untyped-call]
    return joined
