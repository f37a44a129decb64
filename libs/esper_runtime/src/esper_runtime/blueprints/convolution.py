"""Convolutions that keep the extent of their input."""

from __future__ import annotations

from typing import TypeAlias

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

ConvLayer: TypeAlias = type[nn.Conv1d] | type[nn.Conv2d]


class ConvResidual(Operator):
    """delta(x) = K2 * relu(K1 * x), with K2 and its bias zero at the start; one or two spatial dimensions."""

    def __init__(self, layer: ConvLayer, channels: int, hidden: int, taps: int) -> None:
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


def taps_of(parameters: Parameters) -> int:
    """Return the taps of a convolution on each side."""
    return int(parameters["kernel_size"])


def _assemble_1d(parameters: Parameters, contract: SiteContract) -> ConvResidual:
    return ConvResidual(nn.Conv1d, contract.channels, hidden_width(parameters, contract), taps_of(parameters))


def _assemble_2d(parameters: Parameters, contract: SiteContract) -> ConvResidual:
    return ConvResidual(nn.Conv2d, contract.channels, hidden_width(parameters, contract), taps_of(parameters))


def _count(parameters: Parameters, contract: SiteContract, dimensions: int) -> int:
    hidden = hidden_width(parameters, contract)
    taps: int = taps_of(parameters) ** dimensions
    return 2 * hidden * contract.channels * taps + hidden + contract.channels


def _conv_flops(parameters: Parameters, contract: SiteContract, dimensions: int) -> int:
    hidden = hidden_width(parameters, contract)
    taps: int = taps_of(parameters) ** dimensions
    return 4 * hidden * contract.channels * taps * contract.positions


CONV1D = OperatorKind("conv1d_residual", _assemble_1d, lambda p, c: _count(p, c, 1), lambda p, c: _conv_flops(p, c, 1))
CONV2D = OperatorKind("conv2d_residual", _assemble_2d, lambda p, c: _count(p, c, 2), lambda p, c: _conv_flops(p, c, 2))
