"""How much of a seed's gradient reaches its host; nothing, as long as the seed is isolated.

Host and seed have no parameter in common, so their gradients are compared where both could be: on the host's own
parameters, between the host's gradient h and the part l that comes through the seed's output. The cosine of the two
and the ratio of their norms don't depend on the scale of the loss. Both are estimated on coordinates drawn with
replacement, summed on the device, and read back once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from esper_runtime import stages
from esper_runtime.host import Host
from esper_runtime.ownership import HOST

SAMPLES: Final = 4096
_SAMPLES_PER_TENSOR: Final = 16


@dataclass(frozen=True, slots=True)
class Leak:
    """What came through a seed to its host.

    Attributes
    ----------
    cosine : float or None
        Between h and l, in [-1, 1]; 0 where nothing leaked, None where the host has no gradient to compare with.
    ratio : float
        L2 norm of l over that of h; infinite where the host was to have no gradient at all and has one.
    """

    cosine: float | None
    ratio: float


class LeakMeter:
    """Measures one seed over the backward passes of a step; `read` it before gradients are cleared.

    Parameters
    ----------
    host : Host
        The model.
    frozen : bool
        Whether the host is to have no gradients.
    samples : int
        Coordinates to look at over all tensors; small tensors get some of their own beyond that.
    sampling : torch.Generator
        Source of the coordinates, on the CPU; never torch's global one, whose course belongs to the training.
    loss_scale : float
        Factor on the loss of the backward passes, which is taken off the gradients before they are read.
    """

    def __init__(
        self, host: Host, frozen: bool, samples: int, sampling: torch.Generator, loss_scale: float = 1.0
    ) -> None:
        self._host = host
        self._frozen = frozen
        self._samples = samples
        self._sampling = sampling
        self._loss_scale = loss_scale
        self._total = max(1, sum(parameter.numel() for parameter in self._parameters().values()))
        self._drawn: dict[str, Tensor] = {}
        self._leaked: dict[str, Tensor] = {}

    def follow(self, output: Tensor) -> RemovableHandle | None:
        """Watch one output of the seed until its gradient has arrived."""
        if not output.requires_grad:
            return None

        def arrived(gradient: Tensor) -> None:
            # Removed first, so that the pass below doesn't come here again.
            handle.remove()
            self._trace(output, gradient)

        handle: RemovableHandle = output.register_hook(arrived)  # type: ignore[no-untyped-call]
        return handle

    def read(self) -> Leak:
        """Return what was measured; the one moment at which the device is waited for, and only if something leaked."""
        own = {name: found.grad for name, found in self._parameters().items() if found.grad is not None}
        if self._frozen:
            return Leak(None, math.inf if own else 0.0)
        if not self._leaked:
            return Leak(0.0 if own else None, 0.0)
        parts = [self._products(name, gradient) for name, gradient in own.items()]
        if not parts:
            return Leak(None, math.inf)
        return _leak(*torch.stack(parts).sum(dim=0).tolist())

    def _parameters(self) -> Mapping[str, Parameter]:
        return self._host.ownership.parameters(HOST)

    def _trace(self, output: Tensor, gradient: Tensor) -> None:
        """Carry the gradient on through the seed alone and keep what reaches the host."""
        named = {name: found for name, found in self._parameters().items() if found.requires_grad}
        if not named:
            return
        found = torch.autograd.grad(output, list(named.values()), gradient, retain_graph=True, allow_unused=True)
        for name, leaked in zip(named, found, strict=True):
            if leaked is not None:
                sample = leaked.detach().reshape(-1)[self._coordinates(name, leaked)] / self._loss_scale
                self._leaked[name] = self._leaked[name] + sample if name in self._leaked else sample

    def _products(self, name: str, gradient: Tensor) -> Tensor:
        """Return (h.l, h.h, l.l) of one tensor, estimated from its sample."""
        index = self._coordinates(name, gradient)
        both = gradient.detach().reshape(-1)[index].double()
        leaked = self._leaked[name].double() if name in self._leaked else torch.zeros_like(both)
        own = both - leaked
        return torch.stack([own @ leaked, own @ own, leaked @ leaked]) * (gradient.numel() / len(index))

    def _coordinates(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._drawn:
            size = tensor.numel()
            count = max(_SAMPLES_PER_TENSOR, self._samples * size // self._total)
            self._drawn[name] = torch.randint(size, (count,), generator=self._sampling).to(tensor.device)
        return self._drawn[name]


def frozen_leak(host: Host) -> Leak:
    """Return what leaked to a host that was to be still, from its gradients before they are cleared."""
    return LeakMeter(host, True, SAMPLES, torch.Generator()).read()


@contextmanager
def watch_leaks(
    host: Host, sampling: torch.Generator, samples: int = SAMPLES, *, loss_scale: float = 1.0
) -> Iterator[Mapping[str, LeakMeter]]:
    """Measure every seed in TRAINING over the passes in the block; the hooks are gone afterwards.

    Yields
    ------
    Mapping[str, LeakMeter]
        A meter by seed id, to be read after the backward pass and before gradients are cleared.
    """
    learning = [record for record in host.seeds() if record.stage == stages.TRAINING]
    meters = {
        record.seed_id: LeakMeter(host, record.isolation == stages.FREEZE, samples, sampling, loss_scale)
        for record in learning
    }
    followed: list[RemovableHandle] = []

    def follow(meter: LeakMeter, output: Tensor) -> None:
        handle = meter.follow(output)
        if handle is not None:
            followed.append(handle)

    hooks = [host.graft(seed_id).seed.register_forward_hook(_hook(follow, meter)) for seed_id, meter in meters.items()]
    try:
        yield meters
    finally:
        for handle in (*hooks, *followed):
            handle.remove()


def _hook(follow: Any, meter: LeakMeter) -> Any:
    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        follow(meter, output)

    return after


def _leak(dot: float, own: float, leaked: float) -> Leak:
    if own <= 0.0:
        return Leak(None, math.inf if leaked > 0.0 else 0.0)
    if leaked <= 0.0:
        return Leak(0.0, 0.0)
    return Leak(max(-1.0, min(1.0, dot / math.sqrt(own * leaked))), math.sqrt(leaked / own))
