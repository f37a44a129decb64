"""New hidden units beside a submodule: a narrow layer becomes wider instead of deeper."""

from __future__ import annotations

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


class Widen(Operator):
    """delta(x) = W2 act(W1 x + b1) + b2, position by position, where x is what the site's submodule receives.

    W2 and b2 are zero at the start. Beside a layer and its readout these are the units that the layer lacks: they see
    what it sees, and what they find does not have to pass through its width.
    """

    wants_input = True

    def __init__(self, inputs: int, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, channels)
        self.activation = activation

    def delta(self, x: Tensor) -> Tensor:
        """Return the change for inputs of the submodule, (..., inputs) to (..., channels)."""
        hidden = self.inner(x)
        change: Tensor = self.outer(F.relu(hidden) if self.activation == "relu" else F.gelu(hidden))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary inner layer, zero outer layer."""
        initialise_layer(self.inner, generator)
        zero_layer(self.outer)


def _assemble(parameters: Parameters, contract: SiteContract) -> Widen:
    hidden = hidden_width(parameters, contract)
    return Widen(contract.inputs, contract.channels, hidden, str(parameters["activation"]))


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    hidden = hidden_width(parameters, contract)
    return hidden * (contract.inputs + 1) + (hidden + 1) * contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    return 2 * hidden_width(parameters, contract) * (contract.inputs + contract.channels) * contract.positions


KIND = OperatorKind("widen", _assemble, _parameter_count, _flops)
