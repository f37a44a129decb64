"""Requests for kernels on their way: each is sent once, withdrawn when nobody wants it, and its end is told."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.clocks import ManualClock
from esper_core.errors import NotFoundError, OperationCancelledError, UnavailableError
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import EsperChannel
from esper_core.telemetry import Instruments
from kasmina.catalogue import Catalogue
from kasmina.kernels import Kernel, KernelProblem, KernelTable
from kasmina.loading import Cleanup, KernelLoadManager
from kasmina.run import Greeting
from kasmina.sites import Site
from kasmina.telemetry import Telemetry
from kasmina.wanting import prefetch_all
from kasmina.watching import CatalogueWatch
from support.kasmina_stream import CONTRACT
from support.kasmina_supply import RUN, Heard, Store, key, ready
from support.waiting import await_until


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
async def test_a_prefetch_that_takes_twice_its_budget_is_told_as_critical(library: EsperChannel) -> None:
    clock = ManualClock()
    store = Store(library, clock)
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


async def test_a_quarantine_in_urza_reaches_the_snapshot(store: Store, library: EsperChannel) -> None:
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
