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

INNER_GAIN: Final = 2.0
"""Size of the inner layer over torch's ordinary one; what is larger turns more slowly at the same rate: ADR 0011."""

STEADY_WIDTH: Final = 48
LARGEST_SCALE: Final = 2.0


class TwoLayers(Operator):
    """delta(x) = W2 s act(W1 x + b1) + b2, position by position, with W2 and b2 zero at the start.

    The scale s makes a step of Adam, which moves every entry of W2 alike, change the answer as much as it does at a
    hidden width of 48, however wide the layer is; narrow layers are scaled by 2 at most.
    """

    def __init__(self, inputs: int, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, channels)
        self.activation = activation
        self.scale = min(LARGEST_SCALE, STEADY_WIDTH / hidden)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, (..., inputs) to (..., channels)."""
        hidden = self.inner(x)
        active = F.relu(hidden) if self.activation == "relu" else F.gelu(hidden)
        change: Tensor = self.outer(self.scale * active)
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
