"""Which kernels lie ready in Urza, which are on their way, and which cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from esper_core.blueprints import ParameterValue, SiteContract
from esper_core.bounded_cache import BoundedCache, CacheStats

KERNELS_KEPT: Final = 4096
Readiness = Literal["unknown", "requested", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class KernelKey:
    """What makes two kernels the same one: blueprint, complete parameters sorted by name, and site contract."""

    blueprint_id: str
    parameters: tuple[tuple[str, ParameterValue], ...]
    contract: SiteContract

    @classmethod
    def of(cls, blueprint_id: str, parameters: Mapping[str, ParameterValue], contract: SiteContract) -> KernelKey:
        """Build a key; the order of the parameters does not matter."""
        return cls(blueprint_id, tuple(sorted(parameters.items())), contract)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that lies in Urza; digests are SHA-256 in lower-case hex.

    A `restricted` one is only for runs that allow it, by the handling class of its assessment.
    """

    key: KernelKey
    weights_digest: str
    spec_digest: str
    size_bytes: int
    parameter_count: int
    quarantined: bool = False
    restricted: bool = False


@dataclass(frozen=True, slots=True)
class KernelProblem:
    """Why there is no kernel: a code of the error catalogue, a sentence, and whether asking again can help."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """One prefetch on its way."""

    request_id: str
    run_id: str
    key: KernelKey
    requested_at: datetime


class KernelTable:
    """Readiness by key, within a bound. What is forgotten is asked of Urza again: kernels are addressed by content.

    Parameters
    ----------
    limit : int
        Most kernels, and most problems, that are remembered.
    """

    def __init__(self, limit: int = KERNELS_KEPT) -> None:
        self._ready: BoundedCache[KernelKey, Kernel] = BoundedCache(limit)
        self._failed: BoundedCache[KernelKey, KernelProblem] = BoundedCache(limit)
        self._requests: dict[str, KernelRequest] = {}

    def state(self, key: KernelKey) -> Readiness:
        """Tell how a kernel stands."""
        if self._ready.peek(key) is not None:
            return "ready"
        if any(request.key == key for request in self._requests.values()):
            return "requested"
        return "unknown" if self._failed.peek(key) is None else "failed"

    def get(self, key: KernelKey) -> Kernel | None:
        """Return a ready kernel, and count the look-up."""
        return self._ready.get(key)

    def peek(self, key: KernelKey) -> Kernel | None:
        """Return a ready kernel without counting."""
        return self._ready.peek(key)

    def problem(self, key: KernelKey) -> KernelProblem | None:
        """Return why a kernel could not be made, where that is known."""
        return self._failed.peek(key)

    def request(self, request: KernelRequest) -> None:
        """Note that a prefetch was sent."""
        self._requests[request.request_id] = request
        self._failed.drop(lambda key, _: key == request.key)

    def put(self, kernel: Kernel) -> int:
        """Note a kernel that lies ready, whoever told; return how many others were forgotten for it.

        A kernel that is known as restricted stays so: only its assessment knows that, and others tell of it too.
        """
        known = self._ready.peek(kernel.key)
        if known is not None and known.weights_digest == kernel.weights_digest:
            kernel = replace(kernel, restricted=kernel.restricted or known.restricted)
        self._failed.drop(lambda key, _: key == kernel.key)
        return self._ready.put(kernel.key, kernel)

    def settle(self, request_id: str) -> KernelRequest | None:
        """Take a prefetch off the list; None when it is not ours or was settled before."""
        return self._requests.pop(request_id, None)

    def fail(self, key: KernelKey, problem: KernelProblem) -> None:
        """Note that a kernel could not be made; a kernel that is ready stays so."""
        if self._ready.peek(key) is None:
            self._failed.put(key, problem)

    def forget(self, weights_digest: str) -> int:
        """Drop a kernel that was quarantined; return how many entries that were."""
        return self._ready.drop(lambda _, kernel: kernel.weights_digest == weights_digest)

    def take_requests(self, wanted: Callable[[KernelRequest], bool]) -> tuple[KernelRequest, ...]:
        """Take prefetches off the list and return them."""
        taken = tuple(request for request in self._requests.values() if wanted(request))
        for request in taken:
            del self._requests[request.request_id]
        return taken

    def stats(self) -> CacheStats:
        """Say how many kernels are known to be ready, and how the look-ups of the last minutes went."""
        return self._ready.stats()

    @property
    def inflight(self) -> int:
        """Prefetches on their way."""
        return len(self._requests)
