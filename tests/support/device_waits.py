"""How often some work waits for the device: on a CPU nothing stalls, so what would stall elsewhere is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS: Final = frozenset({"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "numpy", "cpu"})


class Reads(TorchFunctionMode):
    """Counts what reads a tensor's content back to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count: int = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += getattr(function, "__name__", "") in READS
        return function(*args, **(kwargs or {}))


class Scalars(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what waits for a scalar of the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def waits(work: Callable[[], object]) -> int:
    """How often some work waits for the device."""
    with Reads() as reads, Scalars() as scalars:
        work()
    found: int = max(reads.count, scalars.count)
    return found
