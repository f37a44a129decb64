"""Kasmina's supply of kernels on a real Urza and a bus in memory, with a played Urabrask."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.blueprints import get_blueprint
from esper_core.bus import InMemoryBus, Received
from esper_core.ids import new_run_id
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import EsperChannel
from esper_core.telemetry import Instruments
from kasmina.bus import KasminaPlace
from kasmina.kernels import KernelKey, KernelTable
from kasmina.loading import KernelLoadManager
from kasmina.telemetry import Telemetry
from support.kasmina_stream import CONTRACT, kernel_of

RUN = new_run_id()


class Heard:
    """Keeps names and attributes of events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.levels: list[int] = []
        self.attributes: list[dict[str, object]] = []

    def event(self, name: str, level: int, description: str, *, run_id: str = "", **attributes: object) -> None:
        """Keep an event."""
        self.events.append(name)
        self.levels.append(level)
        self.attributes.append(attributes)

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        """Metrics are read from the registry."""


class Store:
    """A supply on a real Urza and a bus in memory."""

    def __init__(self, channel: EsperChannel, clock: Any = None) -> None:
        self.heard = Heard()
        self.registry = CollectorRegistry()
        self.bus = InMemoryBus("kasmina")
        self.place = KasminaPlace(self.bus)
        self.urza = urza_pb2_grpc.LibraryStub(channel)
        telemetry = Telemetry(Instruments(self.registry), self.heard)
        more = {"clock": clock} if clock else {}
        self.supply = KernelLoadManager(
            KernelTable(), self.urza, self.place.publish_prefetch, telemetry, budget_s=30.0, **more
        )
        self.asked: list[leyline.KernelPrefetchRequest] = []
        self.tasks = [asyncio.create_task(self.place.consume(self.supply))]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where it was never told."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def answer_with(self, *answers: Any) -> None:
        """Play Urabrask: answer every prefetch with what the functions make of it."""

        async def handle(received: Received) -> None:
            self.asked.append(received.message)
            for make in answers:
                kind, answer = make(received.message)
                await self.bus.publish(kind, answer, leyline.MESSAGE_PRIORITY_NORMAL)

        kinds = [leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST]
        self.tasks.append(asyncio.create_task(self.bus.consume(kinds, group="urabrask", handler=handle)))

    async def close(self) -> None:
        """End what consumes, and the bus."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.bus.close(drain_s=0.1)


def key(blueprint_id: str) -> KernelKey:
    """The key of a blueprint's kernel with its default parameters."""
    return KernelKey.of(blueprint_id, get_blueprint(blueprint_id).complete({}), CONTRACT)


def ready(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    """Urabrask's answer to a request that it fulfilled."""
    answer = leyline.KernelReady(
        version=1,
        request_id=request.request_id,
        training_run_id=request.training_run_id,
        kernel=kernel_of(request.blueprint_id, b"weights"),
        handling_class=leyline.HANDLING_CLASS_STANDARD,
    )
    return leyline.BUS_MESSAGE_TYPE_KERNEL_READY, answer
