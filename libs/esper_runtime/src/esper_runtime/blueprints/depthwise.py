"""Convolutions with one filter per channel, in one or two spatial dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.convolution import ConvLayer, taps_of
from esper_runtime.blueprints.operator import Operator, OperatorKind, Parameters, initialise_layer, zero_layer


class DepthwiseConv(Operator):
    """delta(x) = M relu(k_c * x_c): a filter per channel, then a mix M of the channels that is zero at the start."""

    def __init__(self, layer: ConvLayer, channels: int, taps: int) -> None:
        super().__init__()
        self.filters = layer(channels, channels, taps, padding=taps // 2, groups=channels)
        self.mix = layer(channels, channels, 1)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        change: Tensor = self.mix(F.relu(self.filters(x)))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary filters, zero mix."""
        initialise_layer(self.filters, generator)
        zero_layer(self.mix)


def _kind(name: str, layer: ConvLayer, dimensions: int) -> OperatorKind:
    def assemble(parameters: Parameters, contract: SiteContract) -> DepthwiseConv:
        return DepthwiseConv(layer, contract.channels, taps_of(parameters))

    def parameter_count(parameters: Parameters, contract: SiteContract) -> int:
        taps: int = taps_of(parameters) ** dimensions
        return contract.channels * (taps + contract.channels + 2)

    def flops(parameters: Parameters, contract: SiteContract) -> int:
        taps: int = taps_of(parameters) ** dimensions
        return 2 * contract.channels * (taps + contract.channels) * contract.positions

    return OperatorKind(name, assemble, parameter_count, flops)


CONV1D = _kind("depthwise_conv1d", nn.Conv1d, 1)
CONV2D = _kind("depthwise_conv2d", nn.Conv2d, 2)
