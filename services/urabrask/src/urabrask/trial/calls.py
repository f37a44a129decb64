"""The same calls as in `entry`, for the parent: naming one of these does not load torch, running it in a child does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from urabrask.assessment.observations import Observations, Profile

PRELOAD = ("urabrask.trial.entry",)
"""What a child imports before its first call."""


def ready() -> str:
    """Answer with the version of torch once the child can work."""
    from urabrask.trial import entry

    return entry.ready()


def make(spec: dict[str, Any], seed: int, memory_mib: int) -> tuple[bytes, int, int | None]:
    """Return weights, parameters and forward FLOPs of a kernel."""
    from urabrask.trial import entry

    return entry.make(spec, seed, memory_mib)


def observe(spec: dict[str, Any], weights: bytes, seed: int, memory_mib: int) -> Observations:
    """Try a kernel."""
    from urabrask.trial import entry

    return entry.observe(spec, weights, seed, memory_mib)


def benchmark(
    spec: dict[str, Any], weights: bytes, batch_sizes: Sequence[int], seed: int, memory_mib: int
) -> tuple[Profile, ...]:
    """Time a kernel."""
    from urabrask.trial import entry

    return entry.benchmark(spec, weights, batch_sizes, seed, memory_mib)
