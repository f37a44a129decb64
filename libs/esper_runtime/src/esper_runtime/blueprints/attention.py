"""One layer of self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import (
    Operator,
    OperatorKind,
    Parameters,
    channels_back,
    channels_last,
    initialise_layer,
    zero_layer,
)


class SelfAttention(Operator):
    """delta(x) = W_o attention(n(x)), n normalising over the channels, with W_o zero at the start.

    The positions of an image or of 1-d channels are attended to as one row, without an encoding of where they lie.
    """

    def __init__(self, contract: SiteContract, heads: int, causal: bool) -> None:
        super().__init__()
        channels = contract.channels
        self.contract = contract
        self.heads = heads
        self.causal = causal
        self.read = nn.Linear(channels, 3 * channels)
        self.write = nn.Linear(channels, channels)

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        laid_out = channels_last(x, self.contract)
        row_BLC = laid_out.flatten(1, -2)
        return channels_back(self._attend(row_BLC).reshape(laid_out.shape), self.contract)

    def _attend(self, row_BLC: Tensor) -> Tensor:
        batch, length, channels = row_BLC.shape
        joined = self.read(F.layer_norm(row_BLC, (channels,)))
        parts = joined.view(batch, length, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        change: Tensor = self.write(mixed.transpose(1, 2).reshape(batch, length, channels))
        return change

    def initialise(self, generator: torch.Generator) -> None:
        """Ordinary queries, keys and values, zero output."""
        initialise_layer(self.read, generator)
        zero_layer(self.write)


def _assemble(parameters: Parameters, contract: SiteContract) -> SelfAttention:
    return SelfAttention(contract, int(parameters["heads"]), parameters["mask"] == "causal")


def _parameter_count(parameters: Parameters, contract: SiteContract) -> int:
    return 4 * contract.channels**2 + 4 * contract.channels


def _flops(parameters: Parameters, contract: SiteContract) -> int:
    length = contract.positions
    return 8 * length * contract.channels**2 + 4 * length**2 * contract.channels


KIND = OperatorKind("attention", _assemble, _parameter_count, _flops)
