"""HIGH_RISK operators: bad on purpose, for the assessor, the gates and drills. Never offered to a run's policy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.mlp import MlpResidual, mlp_flops, mlp_parameter_count
from esper_runtime.blueprints.operator import (
    Operator,
    OperatorKind,
    Parameters,
    channels_back,
    channels_last,
    hidden_width,
    initialise_layer,
)


class NanInjection(Operator):
    """A scale per channel, whose first channel answers with NaN."""

    def __init__(self, contract: SiteContract) -> None:
        super().__init__()
        self.contract = contract
        self.scale = nn.Parameter(torch.empty(contract.channels))

    def delta(self, x: Tensor) -> Tensor:
        """Return a change whose first channel is NaN."""
        poison = torch.zeros_like(self.scale).index_fill(0, torch.tensor([0], device=x.device), float("nan"))
        return channels_back(channels_last(x, self.contract) * self.scale + poison, self.contract)

    def initialise(self, generator: torch.Generator) -> None:
        """Zero the scale."""
        nn.init.zeros_(self.scale)


class GainChain(Operator):
    """A chain of per-channel gains; `saturate` squashes after each of them."""

    def __init__(self, contract: SiteContract, depth: int, gain: float, saturate: bool) -> None:
        super().__init__()
        self.contract = contract
        self.gain = gain
        self.saturate = saturate
        self.scales = nn.ParameterList(nn.Parameter(torch.empty(contract.channels)) for _ in range(depth))

    def delta(self, x: Tensor) -> Tensor:
        """Return the input after the whole chain."""
        signal = channels_last(x, self.contract)
        for scale in self.scales:
            signal = signal * scale * self.gain
            signal = torch.sigmoid(signal) if self.saturate else signal
        return channels_back(signal, self.contract)

    def initialise(self, generator: torch.Generator) -> None:
        """Set every scale to one."""
        for scale in self.scales:
            nn.init.ones_(scale)


class ToxicMlp(MlpResidual):
    """A residual MLP that starts with oversized weights."""

    def __init__(self, channels: int, hidden: int, scale: float) -> None:
        super().__init__(channels, hidden, "relu", normalise=False)
        self.weight_scale = scale

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary layers times the scale."""
        for layer in (self.inner, self.outer):
            initialise_layer(layer, generator)
            with torch.no_grad():
                layer.weight.mul_(self.weight_scale)


def _assemble_exploding(parameters: Parameters, contract: SiteContract) -> GainChain:
    return GainChain(contract, int(parameters["depth"]), float(parameters["gain"]), saturate=False)


def _assemble_vanishing(parameters: Parameters, contract: SiteContract) -> GainChain:
    return GainChain(contract, int(parameters["depth"]), 1.0, saturate=True)


def _assemble_toxic(parameters: Parameters, contract: SiteContract) -> ToxicMlp:
    return ToxicMlp(contract.channels, hidden_width(parameters, contract), float(parameters["scale"]))


def _chain_count(parameters: Parameters, contract: SiteContract) -> int:
    return int(parameters["depth"]) * contract.channels


def _no_flops(parameters: Parameters, contract: SiteContract) -> int:
    return 0


NAN_INJECTION = OperatorKind("nan_injection", lambda p, c: NanInjection(c), lambda p, c: c.channels, _no_flops)
EXPLODING = OperatorKind("exploding_gradient", _assemble_exploding, _chain_count, _no_flops)
VANISHING = OperatorKind("vanishing_gradient", _assemble_vanishing, _chain_count, _no_flops)
TOXIC = OperatorKind("toxic_weights", _assemble_toxic, mlp_parameter_count, mlp_flops)
