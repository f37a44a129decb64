"""What a blend really does: the effective alpha over channels or samples, in four numbers that are read at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from esper_core.blending.modes import CHANNEL, CONFIDENCE
from esper_runtime.blending import channel_alpha, gated_alpha, required_gate
from esper_runtime.graft import Graft

SPARSE_BELOW: Final = 0.05
_P95: Final = 0.95


@dataclass(frozen=True, slots=True)
class BlendSummary:
    """Mean and 95th percentile of the effective alpha, the share of it below 0.05, and the gate's mean, if any."""

    alpha_mean: float
    alpha_p95: float
    sparsity: float
    gate_mean: float | None = None


def summarise_blend(graft: Graft) -> BlendSummary | None:
    """Summarise a seed that is live in the forward pass; None for one that does not act on the output.

    Returns
    -------
    BlendSummary or None
        None as well for CONFIDENCE before any logits were supplied: there is no alpha without them.
    """
    if graft.route != "live" or (graft.blend.mode == CONFIDENCE and graft.logits_BK is None):
        return None
    alpha, gate = _effective(graft)
    alpha = alpha.detach().float().reshape(-1)
    numbers = [alpha.mean(), torch.quantile(alpha, _P95), (alpha < SPARSE_BELOW).float().mean()]
    if gate is not None:
        numbers.append(gate.float().mean())
    return BlendSummary(*torch.stack(numbers).tolist())


def _effective(graft: Graft) -> tuple[Tensor, Tensor | None]:
    if graft.blend.mode == CHANNEL and graft.alpha_vec is not None:
        return channel_alpha(graft.alpha, graft.alpha_vec), None
    if graft.blend.mode == CONFIDENCE:
        gate = required_gate(graft.blend, graft.logits_BK)
        return gated_alpha(graft.alpha, graft.blend, gate), gate
    return graft.alpha.clamp(0.0, 1.0), None
