"""Latency and lower precisions."""

from __future__ import annotations

import copy
import time
from typing import Final

import torch
from torch import Tensor, nn

from urabrask.assessment.observations import Precision, Profile
from urabrask.trial.numbers import all_finite, ratio, strength

WARM_UP: Final = 3
REPETITIONS: Final = 40
LEAST_REPETITIONS: Final = 5
SPAN_S: Final = 0.1


def measure_profile(module: nn.Module, x: Tensor, span_s: float = SPAN_S) -> Profile:
    """Time forward passes for at most `span_s`, but at least a few of them."""
    with torch.no_grad():
        for _ in range(WARM_UP):
            module(x)
        times: list[float] = []
        end = time.perf_counter() + span_s
        while len(times) < LEAST_REPETITIONS or (len(times) < REPETITIONS and time.perf_counter() < end):
            started = time.perf_counter()
            module(x)
            times.append((time.perf_counter() - started) * 1000)
    times.sort()
    dtype = str(x.dtype).removeprefix("torch.")
    p50, p95 = (times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.95))
    return Profile(x.shape[0], dtype, str(x.device), p50, p95, len(times))


def compare_precision(taught: nn.Module, x: Tensor, dtype: torch.dtype) -> Precision:
    """Run a copy in a lower precision beside the float32 one.

    Raises
    ------
    RuntimeError
        If torch has no kernel for that precision here.
    """
    lower = copy.deepcopy(taught).to(dtype)
    with torch.no_grad():
        exact, rough = taught(x), lower(x.to(dtype)).float()
    error = ratio(strength(rough - exact), strength(exact))
    return Precision(str(dtype).removeprefix("torch."), all_finite([rough]), error)
