"""A missing dependency is told and refused, never replaced."""

from __future__ import annotations

import asyncio

import pytest

from esper_core import leyline
from esper_core.errors import DependencyViolationError
from esper_core.guard import DependencyViolation, require, require_id
from esper_core.telemetry import TelemetryEmitter

pytestmark = pytest.mark.req("COR-1")


@pytest.mark.parametrize("value", [None, "", "  ", " run", "run\n"])
def test_a_missing_id_is_refused_and_told(value: str | None) -> None:
    told: list[DependencyViolation] = []
    with pytest.raises(DependencyViolationError, match="training_run_id") as caught:
        require_id("training_run_id", value, sink=told.append)
    assert caught.value.dependency == "training_run_id"
    assert [violation.dependency for violation in told] == ["training_run_id"]


@pytest.mark.parametrize("name", ["kernel", "logits", "mesh"])
@pytest.mark.parametrize("value", [None, [], {}, b""])
def test_a_missing_input_is_refused(name: str, value: object) -> None:
    with pytest.raises(DependencyViolationError, match=f"{name} is missing"):
        require(name, value, hint="Ask Urza for it.")


@pytest.mark.parametrize("value", [0, 0.0, False, "x", [0]])
def test_what_is_there_is_returned(value: object) -> None:
    assert require("value", value) is value
    assert require_id("id", "x-1") == "x-1"


async def test_a_violation_becomes_a_critical_event() -> None:
    packets: list[leyline.TelemetryPacket] = []

    async def publish(packet: leyline.TelemetryPacket) -> None:
        packets.append(packet)

    emitter = TelemetryEmitter("kasmina", publish, flush_interval_s=600)
    task = asyncio.create_task(emitter.run())
    await asyncio.sleep(0)
    with pytest.raises(DependencyViolationError):
        require("kernel", None, sink=emitter.dependency_violated)
    async with asyncio.timeout(10):
        while not packets:
            await asyncio.sleep(0)
    task.cancel()
    assert packets[0].priority == leyline.MESSAGE_PRIORITY_CRITICAL
    assert packets[0].events[0].name == "dependency_violation"
    assert packets[0].events[0].attributes["dependency"] == "kernel"
