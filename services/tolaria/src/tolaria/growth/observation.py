"""Watching seeds during one training step: strength of their outputs, what leaks to the host, and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.leaks import LeakMeter, watch_leaks


@dataclass(slots=True)
class Observed:
    """What one step showed of a seed; None where it did not run.

    Attributes
    ----------
    output_norm, host_output_norm : Tensor
        Root mean square of the outputs, scalars on the device.
    latency_ms : float
        Forward time.
    leak : LeakMeter
        For a seed in TRAINING; to be read once, before the next step.
    """

    output_norm: Tensor | None = None
    host_output_norm: Tensor | None = None
    latency_ms: float | None = None
    leak: LeakMeter | None = None


@contextmanager
def watch(
    host: Host, seed_ids: Iterable[str], sampling: torch.Generator, loss_scale: float = 1.0
) -> Iterator[dict[str, Observed]]:
    """Observe the passes in the block; hooks are gone afterwards, and nothing was changed by them."""
    handles: list[Any] = []
    with watch_leaks(host, sampling, loss_scale=loss_scale) as meters:
        seen = {seed_id: Observed(leak=meters.get(seed_id)) for seed_id in seed_ids}
        for seed_id, observed in seen.items():
            handles += _hooks(host.graft(seed_id), observed)
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def _hooks(graft: Graft, observed: Observed) -> list[Any]:
    began = [0.0]

    def before_seed(module: nn.Module, inputs: Any) -> None:
        began[0] = time.perf_counter()

    def after_seed(module: nn.Module, inputs: Any, output: Tensor) -> None:
        observed.latency_ms = (time.perf_counter() - began[0]) * 1000
        observed.output_norm = _rms(output)

    def after_host(module: nn.Module, inputs: Any, output: Tensor) -> None:
        observed.host_output_norm = _rms(output)

    return [
        graft.seed.register_forward_pre_hook(before_seed),
        graft.seed.register_forward_hook(after_seed),
        graft.host.register_forward_hook(after_host),
    ]


def _rms(output: Tensor) -> Tensor:
    return output.detach().float().pow(2).mean().sqrt()
