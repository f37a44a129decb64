"""Runs trials in a child process that is kept warm, and killed when a trial takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from esper_core.blueprints import KernelSpec, sha256_hex
from esper_core.errors import EsperError, InternalError, TimeoutExceededError, UnavailableError, WorkerCrashedError
from esper_core.worker import AsyncWorker
from urabrask.assessment.observations import Observations, Profile
from urabrask.trial import calls

T = TypeVar("T")

TRIAL_SEED: Final = 20_011
"""Seed of all inputs of all trials, so that two trials of one kernel see the same numbers."""

START_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call in a child may take: seconds, and memory beyond what the child holds already."""

    timeout_s: float = 20.0
    memory_mib: int = 1024


@dataclass(frozen=True, slots=True)
class Weights:
    """A made kernel: safetensors bytes, trainable parameters, and forward FLOPs per example where they are known."""

    data: bytes
    parameter_count: int
    flops_per_example: int | None

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, in lower-case hex."""
        return sha256_hex(self.data)


class Laboratory:
    """Makes, tries and times kernels. Build it inside the event loop that uses it.

    One call runs at a time, so that no trial disturbs the timing of another.

    Parameters
    ----------
    limits : Limits
        Bounds of one call.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._worker = AsyncWorker(
            "urabrask-trial", max_concurrency=1, preload=calls.PRELOAD, loop=asyncio.get_running_loop()
        )
        self._turn = asyncio.Lock()
        self._called = False

    @property
    def children_replaced(self) -> int:
        """Children that died or were killed, and were replaced."""
        return self._worker.stats().children_replaced

    @property
    def busy(self) -> bool:
        """Whether a call runs in the child now; one that is only on its way to it does not."""
        return self._called and self._worker.stats().running > 0

    async def warm_up(self) -> str:
        """Start the child now; return its version of torch."""
        async with self._turn:
            return await self._ready()

    async def make(self, spec: KernelSpec, seed: int) -> Weights:
        """Build the kernel of a spec.

        Raises
        ------
        ValidationError
            If blueprint, parameters and contract do not fit together.
        TimeoutExceededError, ResourceExhaustedError, WorkerCrashedError
            If it broke a limit or killed the child.
        UnavailableError
            If no child could be started.
        """
        return Weights(*await self._call(calls.make, spec.to_dict(), seed))

    async def observe(self, spec: KernelSpec, weights: bytes) -> Observations:
        """Try a kernel; raises as `make` does."""
        return await self._call(calls.observe, spec.to_dict(), weights, TRIAL_SEED)

    async def benchmark(self, spec: KernelSpec, weights: bytes, batch_sizes: Sequence[int]) -> tuple[Profile, ...]:
        """Time a kernel; raises as `make` does."""
        return await self._call(calls.benchmark, spec.to_dict(), weights, tuple(batch_sizes), TRIAL_SEED)

    async def close(self) -> None:
        """Kill the child."""
        await self._worker.aclose()

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        async with self._turn:
            try:
                return await self._attempt(function, *arguments)
            except WorkerCrashedError:
                # A system short of memory kills processes too; only who kills twice is to blame.
                return await self._attempt(function, *arguments)

    async def _attempt(self, function: Callable[..., T], *arguments: Any) -> T:
        # The clock starts when a child is free and warm, so that neither a queue nor an import fails a trial.
        await self._ready()
        self._called = True
        try:
            return await self._worker.submit_blocking(
                function,
                *arguments,
                self._limits.memory_mib,
                timeout_s=self._limits.timeout_s,
                name=f"The trial ({function.__name__})",
            )
        except EsperError:
            raise
        except Exception as error:
            # The code on trial may raise whatever it likes; here it becomes one of our errors.
            raise InternalError(f"The trial ended by an error of its own: {error!r:.300}") from error
        finally:
            self._called = False

    async def _ready(self) -> str:
        try:
            return await self._worker.submit_blocking(calls.ready, timeout_s=START_TIMEOUT_S)
        except (TimeoutExceededError, WorkerCrashedError) as error:
            raise UnavailableError(f"No child process for trials could be started: {error.message}") from error
