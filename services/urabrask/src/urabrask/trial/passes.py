"""Forward and backward passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper_core.blueprints import SiteContract
from urabrask.assessment.observations import Forward, Gradients, Robustness
from urabrask.trial.numbers import all_finite, inputs, kept_shape, ratio, strength

_LARGE = 1000.0


def observe_forward(module: nn.Module, contract: SiteContract, batch_sizes: Sequence[int], seed: int) -> Forward:
    """Run every batch size twice."""
    ratios, finite, repeatable = [], True, True
    with torch.no_grad():
        for batch in batch_sizes:
            x = inputs(contract, batch, seed)
            y = kept_shape(module(x), x)
            ratios.append(ratio(strength(y), strength(x)))
            finite = finite and all_finite([y])
            repeatable = repeatable and torch.equal(torch.nan_to_num(y), torch.nan_to_num(kept_shape(module(x), x)))
    return Forward(tuple(batch_sizes), finite, max(ratios), repeatable)


def observe_gradients(fresh: nn.Module, taught: nn.Module, contract: SiteContract, batch: int, seed: int) -> Gradients:
    """Send a random gradient back through the kernel as it was made and through the one that has learned."""
    first_finite, first_gain, _ = _backward(fresh, contract, batch, seed)
    last_finite, last_gain, weakest = _backward(taught, contract, batch, seed)
    return Gradients(first_finite and last_finite, max(first_gain, last_gain), weakest)


def observe_robustness(taught: nn.Module, contract: SiteContract, batch: int, seed: int) -> Robustness:
    """Feed one bad example among good ones, examples that are far too large, and the same examples twice."""
    x = inputs(contract, max(2, batch), seed)
    poisoned = x.clone()
    poisoned[0].fill_(float("nan"))
    with torch.no_grad():
        others = taught(poisoned)[1:].flatten(1)
        overflows = not all_finite([taught(x * _LARGE)])
        first, second = taught(x), taught(x)
    spoiled = (~torch.isfinite(others)).any(dim=1).double().mean()
    return Robustness(float(spoiled), overflows, ratio(strength(second - first), strength(first)))


def _backward(module: nn.Module, contract: SiteContract, batch: int, seed: int) -> tuple[bool, float, float]:
    x = inputs(contract, batch, seed).requires_grad_()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    output = kept_shape(module(x), x)
    arriving = inputs(contract, batch, seed + 1)
    gradients = torch.autograd.grad(output, [x, *parameters], arriving, allow_unused=True)
    towards_host, own = gradients[0], _filled(gradients[1:], parameters)
    gain = 0.0 if towards_host is None else ratio(strength(towards_host), strength(arriving))
    present = [gradient for gradient in gradients if gradient is not None]
    strengths = [strength(gradient) for gradient in own]
    weakest = ratio(min(strengths), max(strengths)) if strengths else 0.0
    return all_finite(present), gain, weakest


def _filled(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor]:
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
