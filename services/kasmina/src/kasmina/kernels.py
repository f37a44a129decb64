"""Which kernels lie ready in Urza, which are on their way, and which cannot be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from esper_core.blueprints import ParameterValue, SiteContract

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
    """A kernel that lies in Urza; digests are SHA-256 in lower-case hex."""

    key: KernelKey
    weights_digest: str
    spec_digest: str
    size_bytes: int
    parameter_count: int
    quarantined: bool = False


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
    """Readiness by key. A ready kernel stays ready: kernels are immutable and addressed by content."""

    def __init__(self) -> None:
        self._ready: dict[KernelKey, Kernel] = {}
        self._failed: dict[KernelKey, KernelProblem] = {}
        self._requests: dict[str, KernelRequest] = {}

    def state(self, key: KernelKey) -> Readiness:
        """Tell how a kernel stands."""
        if key in self._ready:
            return "ready"
        if self.requests_of(key):
            return "requested"
        return "failed" if key in self._failed else "unknown"

    def get(self, key: KernelKey) -> Kernel | None:
        """Return a ready kernel."""
        return self._ready.get(key)

    def problem(self, key: KernelKey) -> KernelProblem | None:
        """Return why a kernel could not be made, where that is known."""
        return self._failed.get(key)

    def requests_of(self, key: KernelKey) -> tuple[KernelRequest, ...]:
        """Return the prefetches of a key that are on their way."""
        return tuple(request for request in self._requests.values() if request.key == key)

    def request(self, request: KernelRequest) -> None:
        """Note that a prefetch was sent."""
        self._requests[request.request_id] = request
        self._failed.pop(request.key, None)

    def put(self, kernel: Kernel) -> None:
        """Note a kernel that lies ready, whoever told."""
        self._ready[kernel.key] = kernel
        self._failed.pop(kernel.key, None)

    def settle(self, request_id: str) -> KernelRequest | None:
        """Take a prefetch off the list; None when it is not ours or was settled before."""
        return self._requests.pop(request_id, None)

    def fail(self, key: KernelKey, problem: KernelProblem) -> None:
        """Note that a kernel could not be made; a kernel that is ready stays so."""
        if key not in self._ready:
            self._failed[key] = problem

    def forget(self, weights_digest: str) -> None:
        """Drop a kernel that was quarantined."""
        self._ready = {key: kernel for key, kernel in self._ready.items() if kernel.weights_digest != weights_digest}

    def cancel_run(self, run_id: str) -> tuple[KernelRequest, ...]:
        """Drop the prefetches of a run and return them."""
        canceled = tuple(request for request in self._requests.values() if request.run_id == run_id)
        for request in canceled:
            del self._requests[request.request_id]
        return canceled

    def overdue(self, now: datetime, budget_s: float) -> tuple[KernelRequest, ...]:
        """Drop the prefetches older than `budget_s` and return them."""
        span = timedelta(seconds=budget_s)
        late = tuple(request for request in self._requests.values() if now - request.requested_at > span)
        for request in late:
            del self._requests[request.request_id]
        return late

    @property
    def inflight(self) -> int:
        """Prefetches on their way."""
        return len(self._requests)

    @property
    def ready_count(self) -> int:
        """Kernels known to be ready."""
        return len(self._ready)
