"""A few optimizer steps on a small regression.

The update rules are written out: torch's own optimizers load its compiler when they are first used, which costs a
second and a hundred megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from urabrask.assessment.observations import Learning
from urabrask.trial.numbers import inputs, kept_shape

STEPS: Final = 10
_ADAM_RATE: Final = 0.01
_SGD_RATE: Final = 0.1
_DECAYS: Final = (0.9, 0.999)


class Update(Protocol):
    """How parameters change along their gradients."""

    @property
    def name(self) -> str:
        """Name of the rule."""

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change the parameters in place."""


class AdamRule:
    """Adam with its usual constants."""

    name = "adam"

    def __init__(self) -> None:
        self._moments: list[tuple[Tensor, Tensor]] = []
        self._step = 0

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change the parameters in place."""
        self._step += 1
        self._moments = self._moments or [(torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]
        for parameter, gradient, (mean, square) in zip(parameters, gradients, self._moments, strict=True):
            mean.lerp_(gradient, 1 - _DECAYS[0])
            square.lerp_(gradient.square(), 1 - _DECAYS[1])
            unbiased = square / (1 - _DECAYS[1] ** self._step)
            parameter.sub_(_ADAM_RATE * mean / (1 - _DECAYS[0] ** self._step) / (unbiased.sqrt() + 1e-8))


class SgdRule:
    """Plain gradient descent: other than Adam it shows when gradients are too large for their weights."""

    name = "sgd"

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change the parameters in place."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(_SGD_RATE * gradient)


def teach(
    module: nn.Module, rule: Update, contract: SiteContract, batch: int, seed: int, steps: int = STEPS
) -> Learning:
    """Teach a module in place and tell how the loss went; stops at the first loss that is not finite."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    x = inputs(contract, batch, seed)
    losses = [_loss_and_step(module, parameters, x, rule)]
    while len(losses) < steps and math.isfinite(losses[-1]):
        losses.append(_loss_and_step(module, parameters, x, rule))
    with torch.no_grad():
        losses.append(_finite_or_inf(_loss(module, x)))
    return Learning(rule.name, len(losses) - 1, losses[0], losses[-1], _rises(losses))


def _loss_and_step(module: nn.Module, parameters: Sequence[Tensor], x: Tensor, update: Update) -> float:
    loss = _loss(module, x)
    value = _finite_or_inf(loss)
    if math.isfinite(value):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        learned = [(one, two) for one, two in zip(parameters, gradients, strict=True) if two is not None]
        with torch.no_grad():
            update([one for one, _ in learned], [two for _, two in learned])
    return value


def _loss(module: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = F.mse_loss(kept_shape(module(x), x), -0.5 * x)
    return loss


def _finite_or_inf(loss: Tensor) -> float:
    value = float(loss.detach())
    return value if math.isfinite(value) else math.inf


def _rises(losses: Sequence[float]) -> float:
    if not math.isfinite(losses[0]) or not math.isfinite(losses[-1]):
        return math.inf
    return sum(max(0.0, later - earlier) for earlier, later in pairwise(losses)) / losses[0]
