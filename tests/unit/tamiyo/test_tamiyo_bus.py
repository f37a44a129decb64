"""What Tamiyo says on the bus: reports with their own id, and kernels that it will probably need."""

from __future__ import annotations

import asyncio

import pytest

from esper_core import leyline
from esper_core.bus import InMemoryBroker, InMemoryBus, Received
from esper_core.clocks import SYSTEM_CLOCK, to_timestamp
from esper_core.errors import UnavailableError
from esper_core.ids import new_command_id
from esper_core.security import Keyring
from support.tamiyo_parts import RUN, Bench
from support.tamiyo_run import FakeRun
from support.waiting import await_until
from tamiyo.bus import TamiyoPlace
from tamiyo.foresight import Foresight
from tamiyo.policies import GrowthRules
from tamiyo.reporting.reports import report_id


def report() -> leyline.FieldReport:
    command_id = new_command_id()
    return leyline.FieldReport(
        version=1,
        report_id=report_id(command_id),
        command_id=command_id,
        training_run_id=RUN,
        outcome=leyline.FIELD_REPORT_OUTCOME_NEUTRAL,
        issued_at=to_timestamp(SYSTEM_CLOCK.wall()),
    )


async def test_a_report_published_twice_is_stored_once() -> None:
    keyring, got = Keyring.generate(), []
    broker = InMemoryBroker(keyring)
    place, one = TamiyoPlace(InMemoryBus("tamiyo", keyring, broker=broker)), report()

    async def handle(received: Received) -> None:
        got.append(received.message.report_id)

    reader = InMemoryBus("simic", keyring, broker=broker)
    reading = asyncio.create_task(
        reader.consume([leyline.BUS_MESSAGE_TYPE_FIELD_REPORT], group="simic", handler=handle)
    )
    await place.publish_report(one)
    await place.publish_report(one)
    another = report()
    await place.publish_report(another)
    await await_until(lambda: another.report_id in got)
    assert got == [one.report_id, another.report_id]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await reader.close()
    await place.close()


async def test_without_a_bus_reports_are_refused_and_telemetry_goes_to_the_log() -> None:
    place = TamiyoPlace(None)
    await place.publish_telemetry(leyline.TelemetryPacket())
    with pytest.raises(UnavailableError, match="ESPER_OONA_ADDRESS"):
        await place.publish_report(report())
    await place.close()


async def test_kernels_of_an_unusual_size_are_asked_for_as_soon_as_the_plan_is_known() -> None:
    bench, run, asked = Bench(), FakeRun(), []

    async def publish(request: leyline.KernelPrefetchRequest) -> None:
        asked.append(request)

    foresight = Foresight(bench.catalogue, GrowthRules(), publish)
    working = asyncio.create_task(foresight.run())
    outcome = bench.controller.decide(run.packet(1, context=True))
    assert outcome.memory is not None
    foresight.plan_came(outcome.memory)
    foresight.plan_came(outcome.memory)
    await await_until(lambda: len(asked) == 2)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert {request.contract.channels for request in asked} == {16, 24}
    command = bench.controller.decide(run.packet(80)).decision.command
    expansion = next(one.real for one in asked[0].parameters if one.name == "expansion")
    assert [one.real for one in command.seed_operation.parameters] == [expansion]
    for request in asked:
        leyline.validate(request)
