"""Requests come over a real bus, and answers and sheets leave over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.bus import BusClient, Received
from esper_core.ids import new_id, new_run_id
from support.assessing import LONGEST_S, Pair, running_pair
from support.service_process import ServiceProcess
from support.valkey import ValkeyProcess
from support.waiting import await_until

WANTED = (
    leyline.BUS_MESSAGE_TYPE_KERNEL_READY,
    leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR,
    leyline.BUS_MESSAGE_TYPE_BSDS_ISSUED,
)


@dataclass(slots=True)
class Listener:
    """A client of the bus that keeps what it hears, by request or sheet."""

    bus: BusClient
    answers: dict[str, leyline.KernelReady | leyline.KernelError] = field(default_factory=dict)
    sheets: list[leyline.Bsds] = field(default_factory=list)

    async def take(self, received: Received) -> None:
        if isinstance(received.message, leyline.Bsds):
            self.sheets.append(received.message)
        else:
            self.answers[received.message.request_id] = received.message

    async def ask(self, blueprint_id: str, channels: int) -> leyline.KernelReady | leyline.KernelError:
        request = leyline.KernelPrefetchRequest(
            version=1,
            request_id=new_id("prefetch"),
            training_run_id=new_run_id(),
            blueprint_id=blueprint_id,
            contract=leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=channels),
        )
        request.requested_at.GetCurrentTime()
        await self.bus.publish(
            leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST, request, leyline.MESSAGE_PRIORITY_NORMAL
        )
        await await_until(lambda: request.request_id in self.answers, LONGEST_S, what="an answer")
        answer = self.answers[request.request_id]
        assert answer.training_run_id == request.training_run_id
        return answer


@pytest.fixture
def oona(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[ServiceProcess]:
    service = ServiceProcess("oona", tmp_path, tmp_path / "keyring.json", {"OONA_REDIS_URL": valkey.url})
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture
def pair(tmp_path: Path, oona: ServiceProcess) -> Iterator[Pair]:
    with running_pair(tmp_path, oona=oona) as running:
        yield running


@pytest.fixture
async def listener(pair: Pair, oona: ServiceProcess) -> AsyncIterator[Listener]:
    async with BusClient(oona.address, "listener", pair.keyring) as bus:
        listener = Listener(bus)
        task = asyncio.create_task(bus.consume(WANTED, group="listener", handler=listener.take))
        yield listener
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("URB-1")
async def test_a_request_is_answered_with_a_kernel_that_lies_in_the_library(pair: Pair, listener: Listener) -> None:
    ready = await listener.ask("mlp_residual.v1", 24)
    assert isinstance(ready, leyline.KernelReady)
    assert ready.handling_class == leyline.HANDLING_CLASS_STANDARD
    assert 0 < ready.prewarm_p50_ms <= ready.prewarm_p95_ms
    before = await pair.last_change()
    again = await listener.ask("mlp_residual.v1", 24)
    assert isinstance(again, leyline.KernelReady)
    assert again.kernel == ready.kernel
    assert await pair.last_change() == before
    await await_until(lambda: len(listener.sheets) == 1, LONGEST_S, what="the sheet")
    assert listener.sheets[0].kernel_digest == ready.kernel.weights_digest

    refused = await listener.ask("nan_injection.v1", 24)
    assert isinstance(refused, leyline.KernelError)
    assert (refused.error_code, refused.retryable) == ("ESP-1008", False)
    unknown = await listener.ask("bp-unknown", 24)
    assert isinstance(unknown, leyline.KernelError)
    assert unknown.error_code == "ESP-1006"


@pytest.mark.chaos
@pytest.mark.req("URB-1")
async def test_a_request_outlives_the_assessor_that_took_it(pair: Pair, listener: Listener) -> None:
    asking = [asyncio.create_task(listener.ask("norm.v1", channels)) for channels in range(2, 14)]
    await await_until(lambda: len(listener.answers) > 2, LONGEST_S, what="some answers")
    pair.urabrask.kill()
    pair.urabrask.start()
    answers = await asyncio.gather(*asking)
    assert all(isinstance(answer, leyline.KernelReady) for answer in answers)
