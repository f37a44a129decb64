"""What the assessor calls in its child process: make a kernel, try it, time it.

Arguments and results are plain data, because they cross to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from esper_core.blueprints import KernelSpec, SiteContract
from esper_runtime import materialise
from esper_runtime.blueprints import parameter_count
from urabrask.assessment.observations import Observations, Profile
from urabrask.trial.feeding import load_fed
from urabrask.trial.limits import memory_limit
from urabrask.trial.numbers import inputs
from urabrask.trial.speed import measure_profile
from urabrask.trial.trial import Trial, declared_flops


def ready() -> str:
    """Answer with the version of torch once this process can work at full speed."""
    torch.set_num_threads(1)
    _warm_up()
    return str(torch.__version__)


def make(spec: dict[str, Any], seed: int, memory_mib: int) -> tuple[bytes, int, int | None]:
    """Return weights, parameters and forward FLOPs per example of a kernel; no FLOPs where an extent is left open."""
    kernel = KernelSpec.from_dict(spec)
    with memory_limit(memory_mib):
        return materialise(kernel, seed), _parameters(kernel), declared_flops(kernel)


def observe(spec: dict[str, Any], weights: bytes, seed: int, memory_mib: int) -> Observations:
    """Try a kernel at the shape it was made for."""
    kernel = KernelSpec.from_dict(spec)
    with memory_limit(memory_mib):
        return Trial(kernel, weights, seed).run()


def benchmark(
    spec: dict[str, Any], weights: bytes, batch_sizes: Sequence[int], seed: int, memory_mib: int
) -> tuple[Profile, ...]:
    """Time the forward pass of a kernel at the given batch sizes."""
    kernel = KernelSpec.from_dict(spec)
    with memory_limit(memory_mib):
        module = load_fed(kernel, weights)
        return tuple(measure_profile(module, inputs(kernel.contract, batch, seed)) for batch in batch_sizes)


@cache
def _warm_up() -> None:
    """Run everything once at a tiny shape: torch loads parts of itself when they are first used."""
    kernel = KernelSpec("mlp_residual.v1", SiteContract("features", 2))
    Trial(kernel, materialise(kernel, 0), 0).run()
    declared_flops(kernel)


def _parameters(kernel: KernelSpec) -> int:
    return parameter_count(kernel.blueprint_id, kernel.parameters, kernel.contract)
