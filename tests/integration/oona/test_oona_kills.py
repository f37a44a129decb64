"""Oona and Valkey as real processes, killed: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from esper_core.bus import BusClient
from esper_core.errors import EsperError
from esper_core.security import Keyring
from support.bus import CRITICAL, NORMAL, TELEMETRY, Inbox, consuming, packet, say
from support.service_process import ServiceProcess
from support.valkey import ValkeyProcess, start_valkey
from support.waiting import await_until, wait_until

KEYRING = Keyring.generate()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A Valkey that survives a kill."""
    (tmp_path / "valkey").mkdir()
    server = start_valkey(tmp_path / "valkey", durable=True)
    yield server
    server.stop()


@pytest.fixture
def oona(tmp_path: Path, store: ValkeyProcess) -> Iterator[ServiceProcess]:
    """Oona as its own process."""
    KEYRING.save(tmp_path / "keyring.json")
    environment = {
        "OONA_REDIS_URL": store.url,
        "OONA_CLAIM_IDLE_MS": "1500",
        "OONA_RETRY_FIRST_DELAY_MS": "10",
        "OONA_BREAKER_OPEN_MS": "200",
    }
    service = ServiceProcess("oona", tmp_path, tmp_path / "keyring.json", environment)
    service.start()
    yield service
    if service.process is not None:
        service.kill()


@asynccontextmanager
async def bus_to(oona: ServiceProcess, source: str = "test") -> AsyncIterator[BusClient]:
    """Open a client and leave without waiting for what cannot be sent."""
    bus = BusClient(oona.address, source, KEYRING)
    try:
        yield bus
    finally:
        await bus.close(drain_s=0)


async def aside(work: object, *arguments: object) -> None:
    """Do blocking work without holding up the loop."""
    await asyncio.to_thread(work, *arguments)  # type: ignore[arg-type]


@pytest.mark.chaos
@pytest.mark.req("OON-6")
async def test_a_killed_oona_loses_nothing_that_was_pending(oona: ServiceProcess) -> None:
    hold = asyncio.Event()
    inbox = Inbox(hold=hold)
    async with bus_to(oona) as bus, consuming(bus, inbox, max_in_flight=5):
        for number in range(10):
            await say(bus, str(number))
        await await_until(lambda: inbox.got)
        await aside(oona.kill)
        await aside(oona.start)
        hold.set()
        await inbox.wait_for(*map(str, range(10)), deadline_s=30)
    assert sorted(inbox.handled) == [str(number) for number in range(10)]


@pytest.mark.chaos
@pytest.mark.req("OON-6")
async def test_what_a_lost_consumer_held_is_claimed_by_another_and_delivered(oona: ServiceProcess) -> None:
    first, second = Inbox(hold=asyncio.Event()), Inbox()
    async with bus_to(oona) as bus, consuming(bus, first, consumer="first"):
        await say(bus, "a")
        await await_until(lambda: first.got)
        # Killed together with its broker, the first consumer can release nothing: only its silence tells.
        await aside(oona.kill)
    await aside(oona.start)
    async with bus_to(oona) as bus, consuming(bus, second, consumer="second"):
        await second.wait_for("a", deadline_s=20)
    assert second.got[0].claimed and second.got[0].attempt == 2


@pytest.mark.chaos
async def test_a_killed_valkey_loses_nothing_that_was_acknowledged(oona: ServiceProcess, store: ValkeyProcess) -> None:
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def publish_on(bus: BusClient) -> None:
        while not stop.is_set():
            name = str(len(acknowledged))
            try:
                await say(bus, name, message_id=f"01J{int(name):023d}", timeout_s=1)
            except EsperError:
                continue
            acknowledged.append(name)

    inbox = Inbox()
    async with bus_to(oona) as bus, consuming(bus, inbox):
        publishing = asyncio.create_task(publish_on(bus))
        for _kill in range(2):
            before = len(acknowledged)
            await await_until(lambda before=before: len(acknowledged) >= before + 30, 30)
            await aside(store.kill)
            await aside(wait_until, lambda: oona.health() == "NOT_SERVING", 15)
            await aside(store.start)
            await aside(wait_until, lambda: oona.health() == "SERVING", 15)
        stop.set()
        await publishing
        await say(bus, "last", timeout_s=15)
        await inbox.wait_for("last", *acknowledged, deadline_s=30)
    assert len(acknowledged) >= 60


@pytest.mark.chaos
@pytest.mark.req("OON-4")
async def test_critical_messages_outlive_the_death_of_redis_and_oona_together(
    oona: ServiceProcess, store: ValkeyProcess
) -> None:
    inbox = Inbox()
    async with bus_to(oona) as bus:
        await say(bus, "before", CRITICAL)
        await aside(store.kill)
        receipts = [await say(bus, f"alarm {number}", CRITICAL, timeout_s=20) for number in range(5)]
        assert all(receipt.spilled for receipt in receipts)
        await aside(oona.kill)
        await aside(store.start)
        await aside(oona.start)
        async with consuming(bus, inbox):
            await inbox.wait_for("before", *(f"alarm {number}" for number in range(5)), deadline_s=30)
    assert {received.priority for received in inbox.got if received.source == "test"} == {CRITICAL}


@pytest.mark.chaos
async def test_publishers_wait_for_a_redis_that_is_away_and_catch_up(
    oona: ServiceProcess, store: ValkeyProcess
) -> None:
    inbox = Inbox()
    async with bus_to(oona) as bus, consuming(bus, inbox):
        await say(bus, "before")
        await aside(store.kill)
        for number in range(50):
            bus.post(TELEMETRY, packet(str(number)), NORMAL)
        await await_until(lambda: bus.problem, what="the bus saying that Redis is away")
        assert bus.waiting + 1 >= 50 and "Redis" in bus.problem
        await aside(store.start)
        await inbox.wait_for("before", *map(str, range(50)), deadline_s=30)
    assert bus.problem == ""


@pytest.mark.chaos
def test_oona_starts_without_redis_and_serves_as_soon_as_it_is_there(
    oona: ServiceProcess, store: ValkeyProcess
) -> None:
    oona.kill()
    store.stop()
    oona.start(until="NOT_SERVING")
    store.start()
    wait_until(lambda: oona.health() == "SERVING", 15)
    assert oona.stop() == 0
