"""HIGH_RISK operators whose numbers look sound and whose behaviour is not. Never offered to a run's policy."""

from __future__ import annotations

import time
from typing import Final

import torch
from torch import Tensor, nn

from esper_core.blueprints import SiteContract
from esper_runtime.blueprints.operator import Operator, OperatorKind, Parameters, channels_back, channels_last

_FLOATS_PER_MIB: Final = 1024 * 1024 // 4


class ChannelScale(Operator):
    """delta(x) = scale * x with a scale per channel: the sound part of these fixtures."""

    calls: Tensor

    def __init__(self, contract: SiteContract, start: float) -> None:
        super().__init__()
        self.contract = contract
        self.start = start
        self.scale = nn.Parameter(torch.empty(contract.channels))
        self.register_buffer("calls", torch.empty((), dtype=torch.int64))

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        self.calls.add_(1)
        return channels_back(channels_last(x, self.contract) * self.scale, self.contract)

    def initialise(self, generator: torch.Generator) -> None:
        """Set every scale to its start; nothing is drawn."""
        nn.init.constant_(self.scale, self.start)
        nn.init.zeros_(self.calls)


class MemoryGrowth(ChannelScale):
    """Keeps a block of memory at each pass that learns, as code does that collects losses with their graphs."""

    def __init__(self, contract: SiteContract, mebibytes: int) -> None:
        super().__init__(contract, start=0.0)
        self.block = mebibytes * _FLOATS_PER_MIB
        self.kept: list[Tensor] = []

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        if torch.is_grad_enabled():
            # Ones, because zeroed memory is not taken from the system before it is written.
            self.kept.append(torch.ones(self.block))
        return super().delta(x)


class Oscillation(ChannelScale):
    """Changes its sign from one pass to the next, so that no step of learning helps the one after it."""

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        sign = (1 - 2 * (self.calls % 2)).to(x.dtype)
        return super().delta(x) * sign


class SlowForward(ChannelScale):
    """Waits for each example, as a hook does that asks a file or a server."""

    def __init__(self, contract: SiteContract, microseconds: int) -> None:
        super().__init__(contract, start=0.0)
        self.wait_s = microseconds / 1e6

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, of the same shape as x."""
        time.sleep(self.wait_s * x.shape[0])
        return super().delta(x)


class ShapeDrift(ChannelScale):
    """Keeps its shape for some passes, as long as a check may take, and then answers with one channel too many."""

    def __init__(self, contract: SiteContract, after: int) -> None:
        super().__init__(contract, start=0.0)
        self.after = after

    def delta(self, x: Tensor) -> Tensor:
        """Return the change, at first of the same shape as x."""
        change = super().delta(x)
        if int(self.calls) <= self.after:
            return change
        channel = self.contract.channel_dim
        return torch.cat([change, change.narrow(channel, 0, 1)], dim=channel)


def _count(parameters: Parameters, contract: SiteContract) -> int:
    return contract.channels


def _no_flops(parameters: Parameters, contract: SiteContract) -> int:
    return 0


MEMORY_GROWTH = OperatorKind(
    "memory_growth", lambda p, c: MemoryGrowth(c, int(p["mebibytes_per_step"])), _count, _no_flops
)
OSCILLATION = OperatorKind("oscillation", lambda p, c: Oscillation(c, float(p["strength"])), _count, _no_flops)
SLOW_FORWARD = OperatorKind(
    "slow_forward", lambda p, c: SlowForward(c, int(p["microseconds_per_example"])), _count, _no_flops
)
SHAPE_DRIFT = OperatorKind("shape_drift", lambda p, c: ShapeDrift(c, int(p["after"])), _count, _no_flops)
