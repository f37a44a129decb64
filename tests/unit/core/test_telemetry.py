"""Telemetry: one catalogue, a priority that is always chosen, nothing lost in silence, CRITICAL at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from esper_core import leyline
from esper_core.breaker import CircuitBreaker
from esper_core.clocks import ManualClock
from esper_core.errors import ContractError, UnavailableError, ValidationError
from esper_core.telemetry import CATALOG, PRIORITY_OF_LEVEL, Instruments, TelemetryBuilder, TelemetryEmitter
from esper_core.telemetry.catalog import main, render
from support.waiting import await_until

pytestmark = pytest.mark.req("COR-5")

INFO, WARNING = leyline.TELEMETRY_LEVEL_INFO, leyline.TELEMETRY_LEVEL_WARNING
ERROR, CRITICAL = leyline.TELEMETRY_LEVEL_ERROR, leyline.TELEMETRY_LEVEL_CRITICAL
NORMAL = leyline.MESSAGE_PRIORITY_NORMAL


class Bus:
    """Takes packets; refuses them while it is down."""

    def __init__(self) -> None:
        self.packets: list[leyline.TelemetryPacket] = []
        self.up = True

    async def publish(self, packet: leyline.TelemetryPacket) -> None:
        if not self.up:
            raise UnavailableError("Oona is away.")
        self.packets.append(packet)

    @property
    def events(self) -> list[str]:
        return [event.name for packet in self.packets for event in packet.events]

    def last_value(self, metric: str) -> float:
        return [point.value for packet in self.packets for point in packet.metrics if point.name == metric][-1]


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make_emitter(bus: Bus, clock: ManualClock, **options: float) -> TelemetryEmitter:
    return TelemetryEmitter("kasmina", bus.publish, shared={"host": "h1"}, clock=clock, **options)  # type: ignore[arg-type]


def test_a_packet_has_a_priority_a_level_and_units(clock: ManualClock) -> None:
    builder = TelemetryBuilder("kasmina", run_id="r", clock=clock)
    builder.metric("kasmina.prefetch.latency_ms", 12.5).event("gate_failed", ERROR, "G2 failed.", gate="G2")
    packet = builder.build(leyline.MESSAGE_PRIORITY_HIGH)
    leyline.validate(packet)
    assert (packet.priority, packet.level) == (leyline.MESSAGE_PRIORITY_HIGH, ERROR)
    assert packet.metrics[0].unit == "ms" and packet.events[0].attributes["gate"] == "G2"


def test_a_packet_without_a_choice_of_priority_is_refused() -> None:
    builder = TelemetryBuilder("kasmina")
    with pytest.raises(ContractError, match="priority"):
        builder.build(leyline.MESSAGE_PRIORITY_UNSPECIFIED)
    with pytest.raises(ContractError, match="level"):
        builder.event("x", leyline.TELEMETRY_LEVEL_UNSPECIFIED, "x")
    with pytest.raises(ValidationError, match="no metric of the catalogue"):
        builder.metric("kasmina.made_up", 1)
    assert set(PRIORITY_OF_LEVEL) == {INFO, WARNING, ERROR, CRITICAL}


def test_the_catalogue_is_well_formed() -> None:
    for metric in CATALOG.values():
        assert metric.name == metric.name.lower() and metric.help.endswith(".")
        assert (metric.kind == "counter") <= metric.name.endswith("_total")
        assert not {"run_id", "seed_id", "training_run_id", "command_id"} & set(metric.labels)
    names = [metric.prometheus_name for metric in CATALOG.values()]
    assert len(names) == len(set(names))


def test_every_metric_is_documented_and_can_be_scraped(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    record: dict[str, Callable[..., None]] = {
        "counter": instruments.count,
        "gauge": instruments.gauge,
        "histogram": instruments.observe,
    }
    for metric in CATALOG.values():
        record[metric.kind](metric.name, 1.0, **dict.fromkeys(metric.labels, "x"))
    scraped, page = generate_latest(registry).decode(), render()
    for metric in CATALOG.values():
        assert f"# HELP {metric.prometheus_name} " in scraped
        assert f"| `{metric.name}` |" in page
    assert 'esper_field_reports_total{outcome="x"} 1.0' in scraped
    assert main([str(tmp_path / "metrics.md")]) == 0
    with pytest.raises(TypeError, match="is a counter"):
        instruments.gauge("kasmina.commands_total", 1.0, outcome="x")


async def test_a_batch_holds_latest_gauges_totals_and_every_observation(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    for value in (1.0, 2.0, 3.0):
        emitter.gauge("kasmina.seeds.active", value)
        emitter.count("kasmina.commands_total", outcome="accepted")
        emitter.observe("kasmina.prefetch.latency_ms", value)
    assert await emitter.flush()
    emitter.count("kasmina.commands_total", outcome="accepted")
    assert await emitter.flush()
    points = [(point.name, point.value) for point in bus.packets[0].metrics]
    assert points.count(("kasmina.seeds.active", 3.0)) == 1 and len(points) == 5
    assert ("kasmina.commands_total", 3.0) in points
    assert bus.last_value("kasmina.commands_total") == 4.0
    assert all(point.attributes["host"] == "h1" for packet in bus.packets for point in packet.metrics)


async def test_packets_are_split_by_run_and_priority(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    emitter.event("a", INFO, "a", run_id="r1")
    emitter.event("b", ERROR, "b", run_id="r1")
    emitter.event("c", INFO, "c", run_id="r2")
    for number in range(300):
        emitter.observe("kasmina.prefetch.latency_ms", number)
    await emitter.flush()
    assert bus.events[0] == "b" and bus.packets[0].priority == leyline.MESSAGE_PRIORITY_HIGH
    assert {packet.training_run_id for packet in bus.packets} == {"r1", "r2", ""}
    assert sum(len(packet.metrics) for packet in bus.packets) == 300
    assert all(packet.ByteSize() < 256 * 1024 for packet in bus.packets)


async def test_critical_goes_out_at_once_from_any_thread(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock, flush_interval_s=600)
    task = asyncio.create_task(emitter.run())
    await asyncio.sleep(0)
    thread = threading.Thread(target=emitter.event, args=("halt", CRITICAL, "Halt."))
    thread.start()
    await await_until(lambda: bus.packets, 10)
    thread.join(10)
    assert bus.packets[0].priority == leyline.MESSAGE_PRIORITY_CRITICAL
    task.cancel()


async def test_floods_are_limited_and_told_but_critical_is_not(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock, events_per_min=10)
    for _ in range(50):
        emitter.event("noise", INFO, "again")
        emitter.event("alarm", CRITICAL, "again")
    await emitter.flush()
    assert bus.events.count("alarm") == 50 and bus.events.count("noise") == 10
    told = [event for packet in bus.packets for event in packet.events if event.name == "telemetry_suppressed"]
    assert told[0].attributes["event"] == "noise" and told[0].attributes["held_back"] == "40"
    assert bus.last_value("telemetry.events_suppressed_total") == 40
    clock.advance(6)
    emitter.event("noise", INFO, "again")
    await emitter.flush()
    assert bus.events.count("noise") == 11


async def test_a_full_buffer_drops_the_oldest_and_says_so(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock, capacity=5)
    for number in range(8):
        emitter.observe("kasmina.prefetch.latency_ms", number)
    await emitter.flush()
    values = [p.value for x in bus.packets for p in x.metrics if p.name == "kasmina.prefetch.latency_ms"]
    # The event that tells of the loss needs a place as well.
    assert values == [4, 5, 6, 7] and emitter.dropped_total == 4
    assert "telemetry_dropped" in bus.events
    assert bus.last_value("telemetry.records_dropped_total") == 3


async def test_what_cannot_be_published_is_kept_and_tried_again(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    emitter.event("first", CRITICAL, "first")
    emitter.event("second", INFO, "second")
    bus.up = False
    assert not await emitter.flush()
    assert not await emitter.flush()
    emitter.event("third", INFO, "third")
    bus.up = True
    assert await emitter.close()
    assert bus.events == ["first", "second", "third"]
    assert bus.last_value("telemetry.publish_failures_total") == 2
    assert emitter.waiting == 0


async def test_closing_is_bounded(clock: ManualClock) -> None:
    async def never(packet: leyline.TelemetryPacket) -> None:
        await asyncio.Event().wait()

    emitter = TelemetryEmitter("kasmina", never, clock=clock)
    emitter.event("last", CRITICAL, "last words")
    assert not await emitter.close(timeout_s=0.05)
    assert emitter.waiting == 1


async def test_health_travels_with_every_batch(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    emitter.health(leyline.HEALTH_STATUS_DEGRADED, "Urza is away.", {"urza": "away"})
    await emitter.flush()
    emitter.event("x", INFO, "x")
    await emitter.flush()
    assert [packet.health.summary for packet in bus.packets] == ["Urza is away."] * 2


async def test_an_unknown_metric_travels_and_is_told_once(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    emitter.gauge("kasmina.made_up", 1.0)
    emitter.gauge("kasmina.made_up", 2.0)
    await emitter.flush()
    assert bus.last_value("kasmina.made_up") == 2.0
    assert bus.events == ["metric_not_in_catalogue"]


async def test_breaker_transitions_are_told(bus: Bus, clock: ManualClock) -> None:
    emitter = make_emitter(bus, clock)
    CircuitBreaker("urza", on_transition=emitter.breaker_moved, clock=clock).trip("drill")
    await emitter.flush()
    assert bus.packets[0].level == ERROR and bus.events == ["breaker_transition"]
    assert bus.last_value("esper.breaker.state") == leyline.CIRCUIT_STATE_OPEN
