"""Tamiyo as a process beside a real Urza: it advises, explains, and forgets nothing when it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from esper_core import leyline
from esper_core.errors import NotFoundError, UnimplementedError
from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2, tamiyo_pb2_grpc
from esper_core.rpc import mapped_errors
from esper_core.security import Keyring, MessageVerifier
from support.service_process import ServiceProcess
from support.tamiyo_run import FakeRun


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    ring = Keyring.generate()
    ring.save(tmp_path / "keyring.json")
    return ring


@pytest.fixture
def urza(tmp_path: Path, keyring: Keyring) -> Iterator[ServiceProcess]:
    service = ServiceProcess("urza", tmp_path, tmp_path / "keyring.json")
    service.start()
    yield service
    service.stop()


@pytest.fixture
def tamiyo(tmp_path: Path, urza: ServiceProcess) -> Iterator[ServiceProcess]:
    service = ServiceProcess(
        "tamiyo",
        tmp_path,
        tmp_path / "keyring.json",
        {"ESPER_URZA_ADDRESS": urza.address, "TAMIYO_STEP_TIMEOUT_MS": "250"},
    )
    service.start()
    yield service
    assert service.stop() == 0, service.log


async def advised(
    stub: tamiyo_pb2_grpc.ControllerAsyncStub, *packets: leyline.SystemStatePacket
) -> list[leyline.Decision]:
    """Send packets on one stream, one at a time, and return the decisions."""
    call = stub.Advise()
    decisions = []
    for packet in packets:
        await call.write(packet)
        answer = await call.read()
        assert isinstance(answer, leyline.Decision)
        decisions.append(answer)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return decisions


@pytest.mark.req("TAM-14", "TAM-11")
async def test_every_packet_gets_exactly_one_decision(tamiyo: ServiceProcess, keyring: Keyring) -> None:
    run = FakeRun()
    packets = [run.packet(1, context=True), run.packet(30), run.packet(100)]
    async with tamiyo.channel(keyring) as channel:
        decisions = await advised(tamiyo_pb2_grpc.ControllerStub(channel), *packets)
    assert [one.packet_id for one in decisions] == [one.packet_id for one in packets]
    assert [one.WhichOneof("outcome") for one in decisions] == ["no_action", "no_action", "command"]
    command = decisions[-1].command
    assert command.command_id == decisions[-1].decision_id
    assert command.target_site in {"stem", "hidden1"}
    verified = MessageVerifier(keyring, "command", ledger=None).verify(command)
    assert verified.accepted, verified.explanation
