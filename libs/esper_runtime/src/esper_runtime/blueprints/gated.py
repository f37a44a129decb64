"""A feed-forward block whose hidden units are gated by the input."""

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


class GatedMlp(Operator):
    """delta(x) = W3 (silu(W1 n(x)) * W2 n(x)), n normalising over the channels, with W3 zero at the start."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, hidden)
        self.value = nn.Linear(channels, hidden)
        self.outer = nn.Linear(hidden, channels)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        read = F.layer_norm(x, x.shape[-1:])
        change: Tensor = self.outer(F.silu(self.gate(read)) * self.value(read))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary gate and value, zero outer layer."""
        initialise_layer(self.gate, generator)
        initialise_layer(self.value, generator)
        zero_layer(self.outer)


def _assemble(parameters: Parameters, contract: SiteContract) -> GatedMlp:
    return GatedMlp(contract.channels, hidden_width(parameters, contract))


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    hidden = hidden_width(parameters, contract)
    return 3 * hidden * contract.channels + 2 * hidden + contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    return 6 * hidden_width(parameters, contract) * contract.channels * contract.positions


KIND = OperatorKind("gated_mlp", _assemble, _parameter_count, _flops)
