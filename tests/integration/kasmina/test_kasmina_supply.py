"""Kernels: asked of a real Urza, prefetched over the bus, waited for within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.blueprints import get_blueprint
from esper_core.bus import InMemoryBus, Received
from esper_core.clocks import ManualClock
from esper_core.errors import NotFoundError, OperationCancelledError, UnavailableError
from esper_core.ids import new_run_id
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import EsperChannel
from esper_core.security import Keyring
from esper_core.telemetry import Instruments
from kasmina.bus import KasminaPlace
from kasmina.catalogue import Catalogue
from kasmina.kernels import Kernel, KernelKey, KernelProblem, KernelTable
from kasmina.loading import Cleanup, KernelLoadManager
from kasmina.run import Greeting
from kasmina.sites import Site
from kasmina.telemetry import Telemetry
from kasmina.wanting import prefetch_all
from kasmina.watching import CatalogueWatch
from support.kasmina_stream import CONTRACT, kernel_of, put_kernel
from support.service_process import ServiceProcess
from support.waiting import await_until

RUN = new_run_id()


class Heard:
    """Keeps names and attributes of events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.levels: list[int] = []
        self.attributes: list[dict[str, object]] = []

    def event(self, name: str, level: int, description: str, *, run_id: str = "", **attributes: object) -> None:
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
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.bus.close(drain_s=0.1)


@pytest.fixture(scope="module")
def urza(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("supply")
    Keyring.generate().save(folder / "keyring.json")
    service = ServiceProcess("urza", folder, folder / "keyring.json")
    service.start()
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture
async def channel(urza: ServiceProcess) -> AsyncIterator[EsperChannel]:
    async with urza.channel(Keyring.load(urza.keyring_file)) as channel:
        yield channel


@pytest.fixture
async def store(channel: EsperChannel) -> AsyncIterator[Store]:
    store = Store(channel)
    yield store
    await store.close()


def key(blueprint_id: str) -> KernelKey:
    return KernelKey.of(blueprint_id, get_blueprint(blueprint_id).complete({}), CONTRACT)


def ready(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    answer = leyline.KernelReady(
        version=1,
        request_id=request.request_id,
        training_run_id=request.training_run_id,
        kernel=kernel_of(request.blueprint_id, b"weights"),
        handling_class=leyline.HANDLING_CLASS_STANDARD,
    )
    return leyline.BUS_MESSAGE_TYPE_KERNEL_READY, answer


def dangerous(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    kind, answer = ready(request)
    answer.handling_class = leyline.HANDLING_CLASS_QUARANTINE
    return kind, answer


def restricted(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelReady]:
    kind, answer = ready(request)
    answer.handling_class = leyline.HANDLING_CLASS_RESTRICTED
    return kind, answer


def impossible(request: leyline.KernelPrefetchRequest) -> tuple[int, leyline.KernelError]:
    answer = leyline.KernelError(
        version=1,
        request_id=request.request_id,
        training_run_id=request.training_run_id,
        blueprint_id=request.blueprint_id,
        error_code="ESP-1003",
        message="The rank is larger than the site.",
    )
    return leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR, answer


async def test_a_kernel_that_lies_in_urza_is_found_without_asking_anybody(store: Store, channel: EsperChannel) -> None:
    stored = await put_kernel(channel, "mlp_residual.v1")
    found = await store.supply.obtain(RUN, key("mlp_residual.v1"), 5.0)
    assert isinstance(found, Kernel)
    assert found.weights_digest == stored.weights_digest
    assert store.metric("kasmina_prefetch_requests_total", status="requested") == 0
    again = await store.supply.obtain(RUN, key("mlp_residual.v1"), 5.0)
    assert again == found
    assert store.metric("kasmina_cache_hits_total") == 1


async def test_a_kernel_is_asked_for_over_the_bus_and_its_news_end_the_waiting(store: Store) -> None:
    store.answer_with(ready, ready)
    found = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(found, Kernel)
    assert store.asked[0].training_run_id == RUN
    assert store.metric("kasmina_prefetch_requests_total", status="ready") == 1, "the repetition changes nothing"
    assert store.metric("kasmina_prefetch_inflight") == 0
    assert store.metric("kasmina_prefetch_latency_ms_count") == 1


@pytest.mark.parametrize(("answer", "code"), [(impossible, "ESP-1003"), (dangerous, "ESP-1008")])
async def test_a_kernel_that_cannot_be_made_is_a_typed_problem(store: Store, answer: Any, code: str) -> None:
    store.answer_with(answer)
    found = await store.supply.obtain(RUN, key("norm.v1"), 10.0)
    assert isinstance(found, KernelProblem)
    assert found.code == code and not found.retryable


async def test_without_an_answer_the_waiting_ends_at_its_bound(store: Store) -> None:
    found = await store.supply.obtain(RUN, key("gated_mlp.v1"), 0.7)
    assert isinstance(found, KernelProblem)
    assert found.code == "ESP-1020" and found.retryable


async def test_without_bus_and_kernel_the_problem_names_the_bus(store: Store) -> None:
    store.bus.broker.go_away()
    problem = asyncio.create_task(store.supply.obtain(RUN, key("gated_mlp.v1"), 0.5))
    found = await problem
    assert isinstance(found, KernelProblem)
    assert found.code == "ESP-1018"
    assert store.metric("kasmina_prefetch_inflight") == 0


@pytest.mark.req("KAS-28")
async def test_a_reset_withdraws_prefetches_and_says_so(store: Store) -> None:
    await store.supply.prefetch(RUN, key("gated_mlp.v1"))
    assert store.metric("kasmina_prefetch_inflight") == 1
    assert store.supply.cancel_run(RUN, "It was reset.") == Cleanup(prefetches=1)
    assert store.metric("kasmina_prefetch_inflight") == 0
    assert store.metric("kasmina_prefetch_requests_total", status="canceled") == 1
    assert store.heard.events == ["prefetch_canceled"]
    assert store.supply.cancel_run(RUN, "It was reset.") == Cleanup()


async def waiting(store: Store, name: str, run_id: str = RUN) -> asyncio.Task[Kernel | KernelProblem]:
    """Begin to wait for a kernel that nobody makes."""
    task = asyncio.create_task(store.supply.obtain(run_id, key(name), 60.0))
    await await_until(lambda: store.metric("kasmina_prefetch_inflight") == 1, what="the request")
    return task


@pytest.mark.req("KAS-22", "KAS-28")
async def test_a_command_that_waits_when_its_run_is_reset_hears_so_and_asks_no_more(store: Store) -> None:
    task = await waiting(store, "gated_mlp.v1")
    assert store.supply.cancel_run("another", "It was reset.") == Cleanup()
    assert store.supply.cancel_run(RUN, "It was reset.") == Cleanup(prefetches=1, waits=1)
    found = await asyncio.wait_for(task, 5)
    assert isinstance(found, KernelProblem)
    assert found.code == OperationCancelledError.code and "reset" in found.message
    assert store.metric("kasmina_prefetch_requests_total", status="requested") == 1
    assert store.metric("kasmina_kernel_pending") == 0


@pytest.mark.req("KAS-22")
async def test_a_blueprint_that_is_quarantined_takes_its_requests_along(store: Store) -> None:
    catalogue = Catalogue()
    watch = CatalogueWatch(store.urza, catalogue, store.supply)
    task = await waiting(store, "gated_mlp.v1")
    descriptors = await store.urza.ListBlueprints(urza_pb2.ListBlueprintsRequest())
    told = next(one for one in descriptors.blueprints if one.blueprint_id == "gated_mlp.v1")
    told.quarantined, told.quarantine_reason = True, "It oscillates."
    watch.take(leyline.CatalogUpdate(version=1, blueprint_id=told.blueprint_id, blueprint=told))
    found = await asyncio.wait_for(task, 5)
    assert isinstance(found, KernelProblem) and "oscillates" in found.message
    assert store.metric("kasmina_prefetch_inflight") == 0
    assert store.heard.events == ["prefetch_canceled"]


@pytest.mark.req("KAS-11", "KAS-12")
async def test_at_the_end_everything_is_let_go_of_at_once_and_counted(store: Store) -> None:
    task = await waiting(store, "gated_mlp.v1")
    assert store.supply.close() == Cleanup(prefetches=1, waits=1)
    assert isinstance(await asyncio.wait_for(task, 5), KernelProblem)
    assert store.heard.events == ["prefetch_canceled", "kernels_closed"]
    assert store.heard.attributes[-1] == {"prefetches_canceled": 1, "waits_canceled": 1}
    with pytest.raises(UnavailableError, match="shutting down"):
        await store.supply.prefetch(RUN, key("gated_mlp.v1"))


@pytest.mark.req("KAS-12")
def test_it_is_made_without_a_running_loop_and_a_loop_of_anybody_serves_it() -> None:
    sent: list[leyline.KernelPrefetchRequest] = []

    async def publish(request: leyline.KernelPrefetchRequest) -> None:
        sent.append(request)

    class Nothing:
        async def GetKernel(self, request: Any, timeout: float) -> None:
            raise NotFoundError("There is no such kernel.")

    telemetry = Telemetry(Instruments(CollectorRegistry()), Heard())
    supply = KernelLoadManager(KernelTable(), Nothing(), publish, telemetry, budget_s=30.0)
    asyncio.run(supply.prefetch(RUN, key("norm.v1")))
    asyncio.run(supply.prefetch(RUN, key("gated_mlp.v1")))
    assert [request.blueprint_id for request in sent] == ["norm.v1", "gated_mlp.v1"]


@pytest.mark.req("KAS-22")
async def test_two_who_want_one_kernel_ask_once_and_the_second_waits_for_the_lock(store: Store) -> None:
    wanted = key("low_rank_linear.v1")
    await asyncio.gather(*(store.supply.prefetch(RUN, wanted) for _ in range(4)))
    assert store.metric("kasmina_prefetch_requests_total", status="requested") == 1
    assert store.metric("kasmina_cache_lock_wait_ms_count") == 4


@pytest.mark.req("KAS-22")
async def test_a_restricted_kernel_is_told_and_stays_restricted_whoever_tells_of_it(store: Store) -> None:
    store.answer_with(restricted)
    found = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(found, Kernel) and found.restricted
    assert "kernel_restricted" in store.heard.events
    store.supply.take(kernel_of("low_rank_linear.v1", b"weights"))
    again = await store.supply.obtain(RUN, key("low_rank_linear.v1"), 10.0)
    assert isinstance(again, Kernel) and again.restricted


@pytest.mark.req("KAS-22")
async def test_a_prefetch_that_takes_twice_its_budget_is_told_as_critical(channel: EsperChannel) -> None:
    clock = ManualClock()
    store = Store(channel, clock)
    await store.supply.prefetch(RUN, key("gated_mlp.v1"))
    clock.advance(59)
    assert store.supply.give_up_overdue() == 0
    clock.advance(timedelta(seconds=2).total_seconds())
    assert store.supply.give_up_overdue() == 1
    assert store.heard.events == ["prefetch_timeout"]
    assert store.heard.levels == [leyline.TELEMETRY_LEVEL_CRITICAL]
    assert store.metric("kasmina_prefetch_inflight") == 0
    await store.close()


async def test_everything_a_run_may_want_is_prefetched_once_urza_was_heard(store: Store) -> None:
    store.answer_with(ready)
    catalogue = Catalogue()
    site = Site("a", "body", CONTRACT, 0)
    twin = Site("b", "tail", CONTRACT, 1)
    names = ("mlp_residual.v1", "norm.v1", "conv1d_residual.v1", "nan_injection.v1")
    greeting = Greeting(RUN, 0, (), (site, twin), names, 100, 0, 10, 0, ())
    asking = asyncio.create_task(prefetch_all(store.supply, greeting, catalogue))
    store.tasks.append(asyncio.create_task(CatalogueWatch(store.urza, catalogue, store.supply).run()))
    await asking
    await await_until(lambda: len(store.asked) >= 1 and store.metric("kasmina_prefetch_inflight") == 0)
    asked = {request.blueprint_id for request in store.asked}
    assert asked <= {"mlp_residual.v1", "norm.v1"}, "what fits the site, and no fixture"
    assert len(store.asked) == len(asked), "once for both sites of the same shape"
    assert isinstance(await store.supply.obtain(RUN, key("norm.v1"), 1.0), Kernel)


async def test_a_quarantine_in_urza_reaches_the_snapshot(store: Store, channel: EsperChannel) -> None:
    catalogue = Catalogue()
    store.tasks.append(asyncio.create_task(CatalogueWatch(store.urza, catalogue, store.supply).run()))
    await await_until(lambda: catalogue.get("depthwise_conv1d.v1") is not None)
    request = urza_pb2.QuarantineRequest(blueprint_id="depthwise_conv1d.v1", reason="It oscillates.")
    await store.urza.Quarantine(request)

    def refused() -> str:
        item = catalogue.get("depthwise_conv1d.v1")
        return item.ineligible() if item else ""

    await await_until(refused)
    assert "It oscillates." in refused()
