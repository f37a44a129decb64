"""Convolutions that keep the extent of their input."""

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


class ConvResidual(Operator):
    """delta(x) = K2 * relu(K1 * x), with K2 and its bias zero at the start; one or two spatial dimensions."""

    def __init__(self, layer: type[nn.Conv1d] | type[nn.Conv2d], channels: int, hidden: int, taps: int) -> None:
        super().__init__()
        self.inner = layer(channels, hidden, taps, padding=taps // 2)
        self.outer = layer(hidden, channels, taps, padding=taps // 2)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        change: Tensor = self.outer(F.relu(self.inner(x)))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary inner layer, zero outer layer."""
        initialise_layer(self.inner, generator)
        zero_layer(self.outer)


class DepthwiseConv1d(Operator):
    """delta(x) = M relu(k_c * x_c): a filter per channel, then a mix M of the channels that is zero at the start."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.filters = nn.Conv1d(channels, channels, taps, padding=taps // 2, groups=channels)
        self.mix = nn.Conv1d(channels, channels, 1)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        change: Tensor = self.mix(F.relu(self.filters(x)))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary filters, zero mix."""
        initialise_layer(self.filters, generator)
        zero_layer(self.mix)


def _taps(parameters: Parameters) -> int:
    return int(parameters["kernel_size"])


def _assemble_1d(parameters: Parameters, contract: SiteContract) -> ConvResidual:
    return ConvResidual(nn.Conv1d, contract.channels, hidden_width(parameters, contract), _taps(parameters))


def _assemble_2d(parameters: Parameters, contract: SiteContract) -> ConvResidual:
    return ConvResidual(nn.Conv2d, contract.channels, hidden_width(parameters, contract), _taps(parameters))


def _assemble_depthwise(parameters: Parameters, contract: SiteContract) -> DepthwiseConv1d:
    return DepthwiseConv1d(contract.channels, _taps(parameters))


def _count(parameters: Parameters, contract: SiteContract, dimensions: int) -> int:
    hidden = hidden_width(parameters, contract)
    taps: int = _taps(parameters) ** dimensions
    return 2 * hidden * contract.channels * taps + hidden + contract.channels


def _conv_flops(parameters: Parameters, contract: SiteContract, dimensions: int) -> int:
    hidden = hidden_width(parameters, contract)
    taps: int = _taps(parameters) ** dimensions
    return 4 * hidden * contract.channels * taps * contract.positions


def _depthwise_count(parameters: Parameters, contract: SiteContract) -> int:
    return contract.channels * (_taps(parameters) + contract.channels + 2)


def _depthwise_flops(parameters: Parameters, contract: SiteContract) -> int:
    return 2 * contract.channels * (_taps(parameters) + contract.channels) * contract.positions


CONV1D = OperatorKind("conv1d_residual", _assemble_1d, lambda p, c: _count(p, c, 1), lambda p, c: _conv_flops(p, c, 1))
CONV2D = OperatorKind("conv2d_residual", _assemble_2d, lambda p, c: _count(p, c, 2), lambda p, c: _conv_flops(p, c, 2))
DEPTHWISE = OperatorKind("depthwise_conv1d", _assemble_depthwise, _depthwise_count, _depthwise_flops)
