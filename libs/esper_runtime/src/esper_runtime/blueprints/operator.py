"""What every operator of the vocabulary has in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_core.blueprints import ParameterValue, SiteContract

Parameters = Mapping[str, ParameterValue]


class Operator(nn.Module):
    """A seed that computes a change of its site's output.

    `delta(x)` is exactly zero after `initialise` in every operator except the fixtures. The forward pass answers with
    the change itself, as RESIDUAL blending adds it, or with `x + delta(x)` where `replaces` is set, as the convex
    modes need a full replacement; at the start that replacement is exactly `x`. Where `wants_input` is set, a second
    argument is what the site's submodule received, and `delta` reads that instead.
    """

    replaces: bool = False
    wants_input: bool = False

    def delta(self, x: Tensor) -> Tensor:
        """Return the change of the site's output, of the same shape."""
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Set every parameter and buffer, drawing from this generator only."""
        raise NotImplementedError

    def forward(self, x: Tensor, *received: Tensor) -> Tensor:
        """Return the change, or the replacement."""
        (read,) = received if self.wants_input else (x,)
        change = self.delta(read)
        return x + change if self.replaces else change


@dataclass(frozen=True, slots=True)
class OperatorKind:
    """How one operator is built and what it costs, known before it exists.

    Attributes
    ----------
    name : str
        Leyline's BlueprintOperator without its prefix, in lower case.
    assemble : callable
        Makes the module with uninitialised parameters.
    parameter_count : callable
        Number of trainable parameters.
    flops : callable
        Forward FLOPs per example by the convention of torch's flop counter: two per multiply-add of matrix products
        and convolutions, none for what works element by element.
    """

    name: str
    assemble: Callable[[Parameters, SiteContract], Operator]
    parameter_count: Callable[[Parameters, SiteContract], int]
    flops: Callable[[Parameters, SiteContract], int]


def hidden_width(parameters: Parameters, contract: SiteContract) -> int:
    """Return the hidden width that `expansion` asks for, at least 1."""
    return max(1, round(float(parameters["expansion"]) * contract.channels))


def uniform_fan_in(weight: Tensor, fan_in: int, generator: torch.Generator, *, gain: float = 1.0) -> None:
    """Fill a weight as torch's own layers do, uniform in ±1/sqrt(fan_in), times a gain."""
    bound = gain / math.sqrt(fan_in)
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)


def initialise_layer(
    layer: nn.Linear | nn.Conv1d | nn.Conv2d, generator: torch.Generator, *, gain: float = 1.0
) -> None:
    """Give a layer torch's ordinary initialisation from the given generator, times a gain."""
    fan_in = layer.weight[0].numel()
    uniform_fan_in(layer.weight, fan_in, generator, gain=gain)
    if layer.bias is not None:
        uniform_fan_in(layer.bias, fan_in, generator, gain=gain)


def zero_layer(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    """Make a layer answer with exact zeros."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def channels_last(x: Tensor, contract: SiteContract) -> Tensor:
    """Return a view with the channels in the last dimension."""
    return x.movedim(contract.channel_dim, -1)


def channels_back(x: Tensor, contract: SiteContract) -> Tensor:
    """Undo `channels_last`."""
    return x.movedim(-1, contract.channel_dim)
