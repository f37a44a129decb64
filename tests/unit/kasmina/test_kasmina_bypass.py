"""What reaches operators over the bus: CRITICAL at once and past every limit, figures once per seed and step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.bus import InMemoryBus, Received
from esper_core.clocks import ManualClock
from esper_core.errors import UnavailableError
from esper_core.telemetry import Instruments, TelemetryEmitter
from kasmina.bus import KasminaPlace
from kasmina.journal import JournalFolder
from kasmina.kernels import KernelTable
from kasmina.loading import KernelLoadManager
from kasmina.registry import RunRegistry
from kasmina.telemetry import INFO, Telemetry
from support.kasmina_life import RUN, ScriptedRuntime, germinate
from support.kasmina_seed import SEED
from support.waiting import await_until

NEVER_S = 3600.0


class Operators:
    """Kasmina's telemetry on a bus in memory, with a batch that would come in an hour, and who listens."""

    def __init__(self) -> None:
        self.bus = InMemoryBus("kasmina")
        self.emitter = TelemetryEmitter("kasmina", KasminaPlace(self.bus).publish_telemetry, flush_interval_s=NEVER_S)
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(Instruments(self.registry), self.emitter)
        self.heard: list[Received] = []
        self.tasks = [asyncio.create_task(self.emitter.run()), asyncio.create_task(self._listen())]

    async def _listen(self) -> None:
        async def handle(received: Received) -> None:
            self.heard.append(received)

        await self.bus.consume([leyline.BUS_MESSAGE_TYPE_TELEMETRY], group="operators", handler=handle)

    def events(self, name: str) -> list[leyline.TelemetryEvent]:
        return [event for one in self.heard for event in one.message.events if event.name == name]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.bus.close(drain_s=0.1)


@pytest.fixture
async def operators() -> AsyncIterator[Operators]:
    operators = Operators()
    await asyncio.sleep(0)  # the emitter wakes up for what comes after its start
    yield operators
    await operators.close()


@pytest.mark.req("KAS-16")
async def test_a_gate_failure_reaches_operators_at_once_and_past_what_waits(operators: Operators) -> None:
    run = ScriptedRuntime(contribution=-0.05)
    run.connect()
    run.command(germinate())
    operators.telemetry.event("ordinary", INFO, "This can wait.", RUN)
    run.train(150)
    operators.telemetry.facts(run.facts, run.executor.ledger)
    await await_until(lambda: operators.events("gate_failure"), 5, what="the failure")
    carrier = next(one for one in operators.heard if any(e.name == "gate_failure" for e in one.message.events))
    assert carrier.priority == carrier.message.priority == leyline.MESSAGE_PRIORITY_CRITICAL
    assert all(event.level == leyline.TELEMETRY_LEVEL_CRITICAL for event in carrier.message.events)


@pytest.mark.req("KAS-16")
async def test_no_rate_limit_holds_a_rejection_back(operators: Operators) -> None:
    reason = leyline.REJECT_REASON_NONCE_REPLAYED
    for number in range(300):
        operators.telemetry.rejected(f"c-{number}", RUN, reason, "It was used before.")
    await await_until(lambda: len(operators.events("command_rejected")) == 300, 5, what="all rejections")
    assert operators.emitter.dropped_total == 0


@pytest.mark.req("KAS-30")
async def test_a_seed_has_one_packet_per_step_however_often_it_is_measured(tmp_path: Path) -> None:
    packets: list[leyline.TelemetryPacket] = []

    async def publish(packet: leyline.TelemetryPacket) -> None:
        packets.append(packet)

    emitter, prometheus = TelemetryEmitter("kasmina", publish), CollectorRegistry()
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    run.train(30)
    journals = JournalFolder(tmp_path, lambda sentence: None)
    runs = RunRegistry(journals, run.rules, run.validator, Telemetry(Instruments(prometheus), emitter), run.clock)
    session = runs.open(RUN)
    session.executor = run.executor
    for step, gradient_norm in ((40, 0.5), (40, 0.6), (45, 0.7), (45, 0.8)):
        run.step_now = step
        await session.evidence(replace(run.evidence(run.held[SEED]), gradient_norm=gradient_norm))
        await emitter.flush()
    of_seed = [packet for packet in packets if any(point.attributes["seed_id"] == SEED for point in packet.metrics)]
    assert [{point.name: point.value for point in one.metrics}["kasmina.seed.gradient_norm"] for one in of_seed] == [
        0.5,
        0.7,
    ]
    assert all(len({point.name for point in one.metrics}) == len(one.metrics) for one in of_seed)
    assert prometheus.get_sample_value("kasmina_seed_gradient_norm", {"site": "hidden"}) == 0.8
    runs.close()


class Away:
    """An Urza that does not answer; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def GetKernel(self, request: object, timeout: float) -> None:
        self.asked += 1
        raise UnavailableError("Urza cannot be reached.")


async def test_urza_is_left_alone_after_three_failures_and_that_is_told(operators: Operators) -> None:
    clock, urza, place = ManualClock(), Away(), KasminaPlace(operators.bus)
    loader = KernelLoadManager(
        KernelTable(), urza, place.publish_prefetch, operators.telemetry, budget_s=30.0, clock=clock
    )
    command = germinate()
    run = ScriptedRuntime()
    run.connect()
    key = run.validator.kernel_key(command, run.executor.ledger)
    assert key is not None
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await loader.prefetch(RUN, key)
    assert urza.asked == 3
    assert operators.registry.get_sample_value("kasmina_breaker_opened_total", {"breaker": "urza"}) == 1
    assert operators.registry.get_sample_value("kasmina_breaker_state", {"breaker": "urza"}) == 2
    clock.advance(6)
    with pytest.raises(UnavailableError):
        await loader.prefetch(RUN, key)
    assert urza.asked == 4, "one probe after the pause"
