"""How the output s of a seed meets the output h of its host.

    CONVEX      a*s + (1-a)*h
    RESIDUAL    h + a*s
    CHANNEL     A*s + (1-A)*h        A = clamp(a * alpha_vec), one entry per channel
    CONFIDENCE  e*s + (1-e)*h        e = clamp(a*g, lo, hi), g = sigmoid(k * (top1 - top2 - tau)) per sample

a is clamped to [0, 1]. Nothing is written in place, and alpha stays a tensor, so that no value has to be read back.
The convex forms use `torch.lerp`, which returns h exactly at 0 and s exactly at 1.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from esper_core.blending import BlendSpec
from esper_runtime.errors import BlendError, MissingLogitsError

__all__ = [
    "MAX_OUTPUT_RATIO",
    "BlendSpec",
    "channel",
    "channel_alpha",
    "clipped",
    "confidence",
    "confidence_gate",
    "convex",
    "gated_alpha",
    "required_gate",
    "residual",
    "straight_through",
]

MAX_OUTPUT_RATIO: Final = 1.0
"""Norm of a straight-through seed's output over that of its host, at most; per sample."""


def convex(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Return a*s + (1-a)*h; `alpha` broadcasts against h."""
    weight = alpha.clamp(0.0, 1.0).to(h.dtype)
    return torch.lerp(h, s.to(h.dtype), weight)


def residual(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """Return h + a*s."""
    return h + alpha.clamp(0.0, 1.0).to(h.dtype) * s.to(h.dtype)


def channel(h: Tensor, s: Tensor, alpha: Tensor, alpha_vec: Tensor, channel_dim: int) -> Tensor:
    """Return the convex blend with one factor per channel."""
    shape = [1] * h.dim()
    shape[channel_dim] = -1
    return convex(h, s, channel_alpha(alpha, alpha_vec).reshape(shape))


def channel_alpha(alpha: Tensor, alpha_vec: Tensor) -> Tensor:
    """Return the effective alpha of each channel, shape (C,)."""
    return (alpha.clamp(0.0, 1.0) * alpha_vec).clamp(0.0, 1.0)


def confidence_gate(logits_BK: Tensor, k: float, tau: float) -> Tensor:
    """Return sigmoid(k * (top1 - top2 - tau)) for each sample of the policy's logits, shape (B,); they get no gradient.

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
    top = logits_BK.detach().topk(2, dim=-1).values
    return torch.sigmoid(k * (top[:, 0] - top[:, 1] - tau))


def confidence(h: Tensor, s: Tensor, alpha: Tensor, spec: BlendSpec, logits_BK: Tensor | None) -> Tensor:
    """Return the convex blend with one gate per sample.

    Raises
    ------
    MissingLogitsError
        If the policy has supplied no logits for this batch.
    BlendError
        If they belong to a batch of another size.
    """
    gate = required_gate(spec, logits_BK)
    if len(gate) != len(h):
        raise BlendError(
            f"The policy's logits are for {len(gate)} samples and the batch has {len(h)}.",
            field="confidence_logits",
            allowed="one row per sample of this batch",
        )
    return convex(h, s, gated_alpha(alpha, spec, gate).reshape(-1, *([1] * (h.dim() - 1))))


def required_gate(spec: BlendSpec, logits_BK: Tensor | None) -> Tensor:
    """Return the gate of each sample, shape (B,).

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
    return confidence_gate(logits_BK, spec.gate_k, spec.gate_tau)


def gated_alpha(alpha: Tensor, spec: BlendSpec, gate_B: Tensor) -> Tensor:
    """Return the effective alpha of each sample, shape (B,)."""
    return (alpha.clamp(0.0, 1.0) * gate_B).clamp(spec.alpha_lo, spec.alpha_hi)


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
