"""A small mixture of experts, routed position by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import Operator, OperatorKind, Parameters, initialise_layer, zero_layer


class MixtureOfExperts(Operator):
    """delta(x) = sum over the `active` most probable experts e of p_e W_e relu(V_e x + c_e), plus b.

    p is the softmax of a linear router. W and b are zero at the start. Every expert is computed at every position and
    the others are masked: at a seed's size that is one matrix product instead of many small ones, and a known cost.
    """

    def __init__(self, channels: int, experts: int, hidden: int, active: int) -> None:
        super().__init__()
        self.experts = experts
        self.active = active
        self.router = nn.Linear(channels, experts)
        self.inner = nn.Linear(channels, experts * hidden)
        self.outer = nn.Linear(experts * hidden, channels)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        hidden = F.relu(self.inner(x))
        by_expert = hidden.view(*x.shape[:-1], self.experts, -1)
        change: Tensor = self.outer((by_expert * self._gates(x).unsqueeze(-1)).view_as(hidden))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary router and inner layers, zero outer layers."""
        initialise_layer(self.router, generator)
        initialise_layer(self.inner, generator)
        zero_layer(self.outer)

    def _gates(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.router(x), dim=-1)
        chosen = shares.topk(self.active, dim=-1)
        # Not divided by their sum: with one active expert the router would get no gradient.
        return torch.zeros_like(shares).scatter(-1, chosen.indices, chosen.values)


def _expert_width(parameters: Parameters, contract: SiteContract) -> int:
    whole = float(parameters["expansion"]) * contract.channels
    return max(1, round(whole / int(parameters["experts"])))


def _assemble(parameters: Parameters, contract: SiteContract) -> MixtureOfExperts:
    experts, active = int(parameters["experts"]), int(parameters["active"])
    return MixtureOfExperts(contract.channels, experts, _expert_width(parameters, contract), active)


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    experts, channels = int(parameters["experts"]), contract.channels
    hidden = experts * _expert_width(parameters, contract)
    return 2 * hidden * channels + hidden + channels + experts * (channels + 1)


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    experts = int(parameters["experts"])
    columns = 2 * experts * _expert_width(parameters, contract) + experts
    return 2 * columns * contract.channels * contract.positions


KIND = OperatorKind("mixture_of_experts", _assemble, _parameter_count, _flops)
