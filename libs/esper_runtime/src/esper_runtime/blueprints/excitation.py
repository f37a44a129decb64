"""A gate per channel that looks at the whole example."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.mlp import mlp_parameter_count
from esper_runtime.blueprints.operator import (
    Operator,
    OperatorKind,
    Parameters,
    hidden_width,
    initialise_layer,
    zero_layer,
)


class SqueezeExcitation(Operator):
    """delta(x) = g x with g = tanh(W2 silu(W1 m + b1) + b2), m the mean of each channel, W2 and b2 zero at the start.

    The gate is centred on zero, so that the site's output is scaled by something between 0 and 2, and by exactly 1 at
    first. The mean sees all positions, later ones too; that is why it does not fit a sequence. The waist may be one
    unit, which silu cannot kill as relu could.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        means = x.flatten(2).mean(dim=2)
        gate = torch.tanh(self.excite(F.silu(self.squeeze(means))))
        return x * gate.view(*gate.shape, *(1 for _ in x.shape[2:]))

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary squeeze, zero excitation."""
        initialise_layer(self.squeeze, generator)
        zero_layer(self.excite)


def _assemble(parameters: Parameters, contract: SiteContract) -> SqueezeExcitation:
    return SqueezeExcitation(contract.channels, hidden_width(parameters, contract))


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    # Once for the whole example: the positions are averaged away before the layers.
    return 4 * hidden_width(parameters, contract) * contract.channels


KIND = OperatorKind("squeeze_excitation", _assemble, mlp_parameter_count, _flops)
