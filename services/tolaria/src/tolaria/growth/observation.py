"""Watching seeds during one training step: strength of their outputs and the time that they cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from esper_runtime.graft import Graft


@dataclass(slots=True)
class Observed:
    """Root mean square of the outputs, and the forward time in ms; None where the seed did not run."""

    output_norm: float | None = None
    host_output_norm: float | None = None
    latency_ms: float | None = None


@contextmanager
def watch(grafts: Iterable[Graft]) -> Iterator[dict[str, Observed]]:
    """Observe the forward passes in the block; hooks are gone afterwards, and nothing was changed by them."""
    seen: dict[str, Observed] = {}
    handles: list[Any] = []
    for graft in grafts:
        observed = seen.setdefault(graft.seed_id, Observed())
        handles += _hooks(graft, observed)
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


def _rms(output: Tensor) -> float:
    return float(output.detach().float().pow(2).mean().sqrt())
