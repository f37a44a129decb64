"""A scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import Operator, OperatorKind, Parameters, channels_back, channels_last


class ScaleShift(Operator):
    """delta(x) = scale * n(x) + shift, with both zero at the start; n normalises over the channels or does nothing."""

    def __init__(self, contract: SiteContract, normalise: bool) -> None:
        super().__init__()
        self.contract = contract
        self.normalise = normalise
        self.scale = nn.Parameter(torch.empty(contract.channels))
        self.shift = nn.Parameter(torch.empty(contract.channels))

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        read = channels_last(x, self.contract)
        if self.normalise:
            read = F.layer_norm(read, read.shape[-1:])
        return channels_back(read * self.scale + self.shift, self.contract)

    def initialise(self, generator: torch.Generator) -> None:
        """Zero both; nothing is drawn."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.shift)


def _assemble(parameters: Parameters, contract: SiteContract) -> ScaleShift:
    return ScaleShift(contract, parameters["normalise"] == "layer")


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    return 2 * contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    return 0


KIND = OperatorKind("norm", _assemble, _parameter_count, _flops)
