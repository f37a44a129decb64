"""A linear map through a narrow waist."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import Operator, OperatorKind, Parameters, initialise_layer, zero_layer


class LowRankLinear(Operator):
    """delta(x) = U V x + b, position by position, with U and b zero at the start."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, rank, bias=False)
        self.up = nn.Linear(rank, channels)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        change: Tensor = self.up(self.down(x))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary way down, zero way up."""
        initialise_layer(self.down, generator)
        zero_layer(self.up)


def _assemble(parameters: Parameters, contract: SiteContract) -> LowRankLinear:
    return LowRankLinear(contract.channels, int(parameters["rank"]))


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    return (2 * int(parameters["rank"]) + 1) * contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    return 4 * int(parameters["rank"]) * contract.channels * contract.positions


KIND = OperatorKind("low_rank_linear", _assemble, _parameter_count, _flops)
