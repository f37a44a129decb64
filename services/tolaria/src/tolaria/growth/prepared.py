"""Kernels that were fetched, verified and built away from the training thread, waiting to be attached."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from torch import nn

from esper_core.blueprints import KernelSpec

_LIMIT: Final = 32


@dataclass(frozen=True, slots=True)
class PreparedKernel:
    """A module of its own for one seed, with what it was built from."""

    seed_id: str
    module: nn.Module
    spec: KernelSpec
    weights_digest: str
    parameter_count: int


class PreparedKernels:
    """The prepared kernels by seed; both threads use it, the oldest goes when too many wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, PreparedKernel] = OrderedDict()

    def put(self, kernel: PreparedKernel) -> None:
        """Keep a kernel for its seed; a former one of the same seed is replaced."""
        with self._lock:
            self._held[kernel.seed_id] = kernel
            self._held.move_to_end(kernel.seed_id)
            while len(self._held) > _LIMIT:
                self._held.popitem(last=False)

    def get(self, seed_id: str) -> PreparedKernel | None:
        """Return the kernel of a seed, or None where none was prepared."""
        with self._lock:
            return self._held.get(seed_id)

    def discard(self, seed_id: str) -> None:
        """Forget the kernel of a seed; one that isn't there is no error."""
        with self._lock:
            self._held.pop(seed_id, None)
