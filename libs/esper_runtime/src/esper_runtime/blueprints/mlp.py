"""Two linear layers around a nonlinearity."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import (
    Operator,
    OperatorKind,
    Parameters,
    hidden_width,
    initialise_layer,
    zero_layer,
)

INNER_GAIN: Final = 4.0
"""Size of the inner layer over torch's ordinary one: that to which layers have grown by the time that a seed comes.

Units that begin small in a trained network come to say fewer different things, and cost up to two points of accuracy:
ADR 0011.
"""


class TwoLayers(Operator):
    """delta(x) = W2 act(W1 x + b1) + b2, position by position, with W2 and b2 zero at the start."""

    def __init__(self, inputs: int, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, channels)
        self.activation = activation

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, (..., inputs) to (..., channels)."""
        hidden = self.inner(x)
        change: Tensor = self.outer(F.relu(hidden) if self.activation == "relu" else F.gelu(hidden))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Large inner layer, zero outer layer."""
        initialise_layer(self.inner, generator, gain=INNER_GAIN)
        zero_layer(self.outer)


class MlpResidual(TwoLayers):
    """Two layers that read their site's output, normalised over the channels where `normalise` is set."""

    def __init__(self, channels: int, hidden: int, activation: str, normalise: bool) -> None:
        super().__init__(channels, channels, hidden, activation)
        self.normalise = normalise

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        return super().delta(F.layer_norm(x, x.shape[-1:]) if self.normalise else x)


def _assemble(parameters: Parameters, contract: SiteContract) -> MlpResidual:
    return MlpResidual(
        contract.channels,
        hidden_width(parameters, contract),
        str(parameters["activation"]),
        parameters["normalise"] == "layer",
    )


def mlp_parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    """Both layers with their biases."""
    hidden = hidden_width(parameters, contract)
    return 2 * hidden * contract.channels + hidden + contract.channels


def mlp_flops(parameters: Parameters, contract: SiteContract) -> int:
    """Two matrix products at each position."""
    return 4 * hidden_width(parameters, contract) * contract.channels * contract.positions


KIND = OperatorKind("mlp_residual", _assemble, mlp_parameter_count, mlp_flops)
