"""Oona in this process on a real Valkey: limits, breakers, metrics, and what the client is told about each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest
from redis.asyncio import Redis

from esper_core import leyline
from esper_core.bus import BusClient, EnvelopeSealer
from esper_core.errors import ResourceExhaustedError, UnavailableError
from esper_core.pb.esper.oona.v1 import oona_pb2, oona_pb2_grpc
from esper_core.rpc import mapped_errors, open_channel
from esper_core.security import Keyring, TokenSource
from support.bus import CRITICAL, HIGH, LOW, NORMAL, TELEMETRY, Inbox, a_passing_fault, always, consuming, packet, say
from support.oona import LocalOona, running_oona
from support.valkey import ValkeyProcess
from support.waiting import await_until

KEYRING = Keyring.generate()


@pytest.fixture
def changes() -> dict[str, Any]:
    """Settings of this test's Oona."""
    return {}


@pytest.fixture
async def oona(redis_url: str, tmp_path: Path, changes: dict[str, Any]) -> AsyncIterator[LocalOona]:
    """Oona on an empty Valkey."""
    async with running_oona(redis_url, tmp_path, KEYRING, **changes) as local:
        yield local


@pytest.fixture
async def bus(oona: LocalOona) -> AsyncIterator[BusClient]:
    """A client of it."""
    client = BusClient(oona.address, "test", KEYRING)
    yield client
    await client.close(drain_s=0)


@pytest.fixture
async def stub(oona: LocalOona) -> AsyncIterator[Any]:
    """A plain stub with the rights of a service."""
    async with open_channel(oona.address, TokenSource(KEYRING, "test", "service"), "test") as channel:
        yield oona_pb2_grpc.BrokerStub(channel)


def sealed(priority: int) -> leyline.BusEnvelope:
    """Return a good envelope."""
    sealer = EnvelopeSealer("test", KEYRING)
    return sealer.seal(sealer.compose(TELEMETRY, packet("x", priority), priority))


@pytest.mark.req("OON-4")
async def test_120_critical_messages_in_a_burst_all_arrive(oona: LocalOona, bus: BusClient) -> None:
    inbox = Inbox()
    async with consuming(bus, inbox):
        await asyncio.gather(*(say(bus, str(number), CRITICAL) for number in range(120)))
        await inbox.wait_for(*map(str, range(120)), deadline_s=30)
    assert len(inbox.texts) == 120
    assert oona.metric("oona_emergency_messages_total", source="test", priority="CRITICAL") == 120
    assert oona.metric("oona_publish_rejected_total", reason="rate_limit") == 0


@pytest.mark.req("OON-2", "OON-3")
@pytest.mark.parametrize("changes", [{"emergency_max_per_min": 3}])
async def test_high_messages_above_the_rate_are_refused_with_a_time_to_come_back(
    oona: LocalOona, bus: BusClient
) -> None:
    for number in range(3):
        await say(bus, str(number), HIGH)
    with pytest.raises(ResourceExhaustedError, match="used up") as refused:
        await say(bus, "one too many", HIGH)
    assert 0 < (refused.value.retry_after_s or 0) <= 20
    await say(bus, "alarm", CRITICAL)
    assert oona.metric("oona_emergency_rate_limited_total", source="test") == 1
    assert oona.metric("oona_emergency_messages_total", source="test", priority="HIGH") == 3
    tokens = oona.registry.get_sample_value("oona_emergency_tokens", {"source": "test"})
    assert tokens is not None and 0 <= tokens < 1


LITTLE = {"backpressure_enter": 5, "backpressure_enter_normal": 10, "backpressure_leave": 2, "backpressure_min_s": 0.5}


@pytest.mark.req("OON-5")
@pytest.mark.parametrize("changes", [LITTLE])
async def test_back_pressure_refuses_low_then_normal_and_ends_when_consumers_catch_up(
    oona: LocalOona, bus: BusClient
) -> None:
    inbox = Inbox(hold=asyncio.Event())
    async with consuming(bus, inbox):
        await await_until(lambda: oona.metric("oona_subscribers"))
        for number in range(5):
            await say(bus, str(number))
        await await_until(lambda: oona.metric("oona_backpressure_active", stream="telemetry"), 10)
        with pytest.raises(ResourceExhaustedError, match="LOW messages are refused") as refused:
            await say(bus, "low", LOW)
        assert refused.value.retry_after_s
        await say(bus, "normal", NORMAL)
        await say(bus, "alarm", CRITICAL)
        while oona.metric("oona_queue_depth", stream="telemetry", group="g@4") < 10:
            try:
                await say(bus, "more", NORMAL)
            except ResourceExhaustedError:
                break
        await await_until(lambda: _refused(bus, NORMAL), 10)
        inbox.hold.set()  # type: ignore[union-attr]
        await await_until(lambda: not oona.metric("oona_backpressure_active", stream="telemetry"), 15)
        await say(bus, "low again", LOW)
    assert oona.metric("oona_publish_rejected_total", reason="back_pressure") >= 2


async def _refused(bus: BusClient, priority: int) -> bool:
    try:
        await say(bus, "probe", priority)
    except ResourceExhaustedError:
        return True
    return False


@pytest.mark.req("OON-5")
@pytest.mark.parametrize("changes", [LITTLE])
async def test_a_single_refused_envelope_ends_the_unary_call_with_its_status(
    oona: LocalOona, bus: BusClient, stub: Any
) -> None:
    async with consuming(bus, Inbox(hold=asyncio.Event())):
        for number in range(6):
            await say(bus, str(number))
        await await_until(lambda: oona.metric("oona_backpressure_active", stream="telemetry"), 10)
        with pytest.raises(grpc.RpcError) as status:
            await stub.Publish(oona_pb2.PublishRequest(envelopes=[sealed(LOW)]))
        assert status.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        with pytest.raises(ResourceExhaustedError) as error, mapped_errors():
            await stub.Publish(oona_pb2.PublishRequest(envelopes=[sealed(LOW)]))
        assert error.value.retry_after_s
        batch = await stub.Publish(oona_pb2.PublishRequest(envelopes=[sealed(LOW), sealed(CRITICAL)]))
    assert [receipt.accepted for receipt in batch.receipts] == [False, True]
    assert batch.receipts[0].error_code == "ESP-1017" and batch.receipts[0].retry_after_ms > 0


@pytest.mark.req("OON-7")
async def test_the_publish_breaker_opens_without_redis_and_closes_by_one_probe(
    oona: LocalOona, bus: BusClient, stub: Any, valkey: ValkeyProcess
) -> None:
    assert oona.metric("oona_breaker_state", breaker="oona.publish") == leyline.CIRCUIT_STATE_CLOSED
    valkey.kill()
    request = oona_pb2.PublishRequest(envelopes=[sealed(NORMAL)])

    async def opened() -> bool:
        with pytest.raises(UnavailableError), mapped_errors():
            await stub.Publish(request)
        return oona.metric("oona_breaker_state", breaker="oona.publish") == leyline.CIRCUIT_STATE_OPEN

    await await_until(opened, 10)
    valkey.start()
    await say(bus, "back", timeout_s=15)
    assert oona.metric("oona_breaker_state", breaker="oona.publish") == leyline.CIRCUIT_STATE_CLOSED
    assert oona.metric("oona_publish_rejected_total", reason="unavailable") >= 3


@pytest.mark.req("OON-7")
async def test_a_handler_error_is_no_failure_of_either_breaker(oona: LocalOona, bus: BusClient) -> None:
    inbox = Inbox(fail=always(a_passing_fault()))
    async with consuming(bus, inbox):
        for number in range(3):
            await say(bus, str(number))
        await await_until(lambda: oona.metric("oona_dead_letter_messages_total", reason="handler") == 3, 15)
    for breaker in ("oona.publish", "oona.consume"):
        assert oona.metric("oona_breaker_state", breaker=breaker) == leyline.CIRCUIT_STATE_CLOSED


@pytest.mark.parametrize("changes", [{"retry_max_deliveries": 3, "claim_idle_ms": 300}])
async def test_a_message_that_kills_its_consumers_becomes_a_dead_letter(oona: LocalOona, bus: BusClient) -> None:
    await say(bus, "poison")
    for life in range(3):
        inbox = Inbox(hold=asyncio.Event())
        async with consuming(bus, inbox, consumer=f"life {life}"):
            await await_until(lambda inbox=inbox: inbox.got)
    async with consuming(bus, Inbox(), consumer="last"):
        letters = await await_until(bus.dead_letters)
    assert "without an answer" in letters[0].reason


async def test_a_broken_seal_is_told_as_critical_on_the_bus(oona: LocalOona, bus: BusClient, stub: Any) -> None:
    events: list[leyline.TelemetryEvent] = []

    async def keep(received: Any) -> None:
        events.extend(received.message.events)

    forged = sealed(NORMAL)
    forged.payload = packet("forged").SerializeToString()
    async with consuming(bus, keep):
        await stub.Publish(oona_pb2.PublishRequest(envelopes=[forged, sealed(NORMAL)]))
        await await_until(lambda: any(event.name == "envelope_rejected" for event in events))
    event = next(event for event in events if event.name == "envelope_rejected")
    assert event.level == leyline.TELEMETRY_LEVEL_CRITICAL and event.attributes["source"] == "test"
    assert oona.metric("oona_publish_rejected_total", reason="invalid_signature") == 1


async def test_streams_groups_and_lag_can_be_listed(oona: LocalOona, bus: BusClient, stub: Any) -> None:
    hold = asyncio.Event()
    async with consuming(bus, Inbox(hold=hold), max_in_flight=2):
        await await_until(lambda: oona.metric("oona_subscribers"))
        for number in range(5):
            await say(bus, str(number))

        async def seen() -> Any:
            streams = (await stub.ListStreams(oona_pb2.ListStreamsRequest())).streams
            groups = [group for one in streams if one.logical_name == "telemetry" for group in one.groups]
            return next((group for group in groups if group.pending >= 2), None)

        group = await await_until(seen)
        hold.set()
    assert group.name == "g@4" and group.pending + group.lag >= 5 and group.consumers == 1


@pytest.mark.req("OON-3")
async def test_metrics_carry_their_catalogued_names(oona: LocalOona, bus: BusClient) -> None:
    async with consuming(bus, Inbox()):
        await say(bus, "a")
        await await_until(lambda: oona.metric("oona_acks_total", stream="telemetry"))
        await await_until(lambda: b"oona_queue_depth{" in generate_latest(oona.registry))
    text = generate_latest(oona.registry).decode()
    for name in ("publish_total", "publish_latency_ms_bucket", "deliveries_total", "redis_up", "breaker_state"):
        assert f"oona_{name}" in text


@pytest.mark.parametrize("changes", [{"retention_s": 0.001, "stream_max_length": 1000}])
async def test_trimming_spares_what_a_group_still_needs(oona: LocalOona, bus: BusClient, redis_url: str) -> None:
    from oona.layout import Layout
    from oona.upkeep import Upkeep

    inbox = Inbox(hold=asyncio.Event())
    async with consuming(bus, inbox, max_in_flight=1):
        await await_until(lambda: oona.metric("oona_subscribers"))
        for number in range(300):
            bus.post(TELEMETRY, packet(str(number)), NORMAL)
        await await_until(lambda: inbox.got)
        assert await bus.drain(10)
    upkeep = _upkeep_of(oona)
    assert isinstance(upkeep, Upkeep)
    await upkeep.trim()
    connection: Any = Redis.from_url(redis_url, protocol=2)
    try:
        length = await connection.xlen(Layout.from_settings(oona.settings).stream("telemetry"))
    finally:
        await connection.aclose()
    assert length >= 300


def _upkeep_of(oona: LocalOona) -> Any:
    """Find the host's upkeep behind its health probe."""
    assert oona.host is not None
    return oona.host.health.dependencies[0].probe.__self__  # type: ignore[attr-defined]
