"""Convolutions whose taps lie apart, in one or two spatial dimensions: a wide view for few parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.convolution import ConvLayer, taps_of
from esper_runtime.blueprints.operator import (
    Operator,
    OperatorKind,
    Parameters,
    hidden_width,
    initialise_layer,
    zero_layer,
)


class DilatedConv(Operator):
    """delta(x) = M relu(K * x): K with its taps `dilation` positions apart, M a mix of the channels, zero at first."""

    def __init__(self, layer: ConvLayer, channels: int, hidden: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.inner = layer(channels, hidden, taps, padding=dilation * (taps // 2), dilation=dilation)
        self.mix = layer(hidden, channels, 1)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        change: Tensor = self.mix(F.relu(self.inner(x)))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary inner layer, zero mix."""
        initialise_layer(self.inner, generator)
        zero_layer(self.mix)


def _kind(name: str, layer: ConvLayer, dimensions: int) -> OperatorKind:
    def assemble(parameters: Parameters, contract: SiteContract) -> DilatedConv:
        hidden, taps = hidden_width(parameters, contract), taps_of(parameters)
        return DilatedConv(layer, contract.channels, hidden, taps, int(parameters["dilation"]))

    def products(parameters: Parameters, contract: SiteContract) -> int:
        taps: int = taps_of(parameters) ** dimensions
        return hidden_width(parameters, contract) * contract.channels * (taps + 1)

    def parameter_count(parameters: Parameters, contract: SiteContract) -> int:
        return products(parameters, contract) + hidden_width(parameters, contract) + contract.channels

    def flops(parameters: Parameters, contract: SiteContract) -> int:
        return 2 * products(parameters, contract) * contract.positions

    return OperatorKind(name, assemble, parameter_count, flops)


CONV1D = _kind("dilated_conv1d", nn.Conv1d, 1)
CONV2D = _kind("dilated_conv2d", nn.Conv2d, 2)
