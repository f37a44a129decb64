"""Kernels from Urza: fetched in chunks, proved by digest, built away from the training thread, kept by digest."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import grpc

from esper_core import leyline
from esper_core.blueprints import KernelSpec
from esper_core.blueprints.messages import contract_from_message, parameters_from_messages
from esper_core.bounded_cache import BoundedCache
from esper_core.errors import IntegrityError, TimeoutExceededError
from esper_core.keyed_locks import KeyedLocks
from esper_core.pb.esper.urza.v1 import urza_pb2 as urza
from esper_core.pb.esper.urza.v1.urza_pb2_grpc import LibraryStub
from esper_core.rpc import mapped_errors
from esper_core.telemetry import TelemetryEmitter
from esper_runtime.contracts import check_module
from esper_runtime.kernels import load_kernel
from tolaria.growth.prepared import PreparedKernel


class KernelSource:
    """Prepares kernels.

    Parameters
    ----------
    channel : grpc.aio.Channel
        To Urza.
    cache_bytes : int
        Weights kept in memory, by digest; a module is built anew for every seed.
    telemetry : TelemetryEmitter
        Hears how long preparations and their locks took, and how the cache did lately.
    """

    def __init__(self, channel: grpc.aio.Channel, cache_bytes: int, telemetry: TelemetryEmitter) -> None:
        self._stub: Any = LibraryStub(channel)
        self._cache: BoundedCache[str, bytes] = BoundedCache(cache_bytes, weigh=len)
        self._telemetry = telemetry
        self._locks = KeyedLocks(lambda waited_ms: telemetry.observe("tolaria.kernel.lock_wait_ms", waited_ms))

    async def prepare(self, seed_id: str, order: leyline.PrepareKernel, timeout_s: float) -> PreparedKernel:
        """Fetch, prove and build a kernel for one seed.

        Raises
        ------
        TimeoutExceededError
            If it wasn't done in time.
        IntegrityError
            If bytes or spec don't have the digest by which they were asked for.
        EsperError
            Whatever Urza answers.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                weights = await self._weights(order)
                kernel = await asyncio.to_thread(_built, seed_id, order, weights)
        except TimeoutError as error:
            raise TimeoutExceededError(
                f"The kernel {order.kernel_digest[:12]}… was not ready after {timeout_s:.1f} s. Try again."
            ) from error
        self._telemetry.observe("tolaria.kernel.prepare_ms", (time.perf_counter() - began) * 1000)
        return kernel

    async def _weights(self, order: leyline.PrepareKernel) -> bytes:
        digest = order.kernel_digest
        async with self._locks.hold(digest):
            weights = self._cache.get(digest)
            if weights is None:
                weights = await self._fetch(order)
                self._cache.put(digest, weights)
        self._telemetry.gauge("tolaria.kernel.cache_hit_rate", self._cache.stats().hit_rate or 0.0)
        return weights

    async def _fetch(self, order: leyline.PrepareKernel) -> bytes:
        data = bytearray()
        with mapped_errors("urza"):
            async for response in self._stub.FetchKernel(urza.FetchKernelRequest(weights_digest=order.kernel_digest)):
                data += response.chunk
                if len(data) > order.size_bytes:
                    break
        if len(data) != order.size_bytes or hashlib.sha256(data).hexdigest() != order.kernel_digest:
            raise IntegrityError(
                f"Urza sent {len(data)} bytes for kernel {order.kernel_digest[:12]}… that are not it. Fetch it again.",
                details={"expected": order.kernel_digest},
            )
        return bytes(data)


def _built(seed_id: str, order: leyline.PrepareKernel, weights: bytes) -> PreparedKernel:
    spec = KernelSpec(
        blueprint_id=order.blueprint_id,
        contract=contract_from_message(order.contract),
        parameters=parameters_from_messages(order.parameters),
    )
    if order.spec_digest and spec.digest != order.spec_digest:
        raise IntegrityError(
            f"The kernel's spec has digest {spec.digest[:12]}…, expected was {order.spec_digest[:12]}….",
            details={"expected": order.spec_digest, "found": spec.digest},
        )
    module = load_kernel(spec, weights, digest=order.kernel_digest)
    check_module(module, spec.contract)
    count = sum(parameter.numel() for parameter in module.parameters())
    return PreparedKernel(seed_id, module, spec, order.kernel_digest, count)
