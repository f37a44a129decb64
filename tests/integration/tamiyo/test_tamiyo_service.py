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
from support.waiting import wait_until


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


async def grown(stub: tamiyo_pb2_grpc.ControllerAsyncStub, run: FakeRun) -> leyline.AdaptationCommand:
    """Bring a run to its first command and show its seed."""
    decisions = await advised(stub, run.packet(1, context=True), run.packet(80))
    command = decisions[-1].command
    await advised(stub, run.packet(90, context=True, seeds=[run.seed(command, leyline.SEED_STAGE_TRAINING)]))
    return command


async def explained(stub: tamiyo_pb2_grpc.ControllerAsyncStub, **by: str) -> list[tamiyo_pb2.ExplainedDecision]:
    """Ask why."""
    answer = await stub.Explain(tamiyo_pb2.ExplainRequest(**by))
    return list(answer.decisions)


async def reported(stub: tamiyo_pb2_grpc.ControllerAsyncStub, run: FakeRun) -> list[leyline.FieldReport]:
    """Ask for the reports of a run."""
    answer = await stub.ListFieldReports(tamiyo_pb2.ListFieldReportsRequest(training_run_id=run.run_id))
    return list(answer.reports)


@pytest.mark.req("TAM-10")
async def test_a_packet_without_an_id_gets_a_failure_and_the_stream_goes_on(
    tamiyo: ServiceProcess, keyring: Keyring
) -> None:
    run = FakeRun()
    broken = run.packet(1, context=True)
    broken.training_run_id = ""
    async with tamiyo.channel(keyring) as channel:
        decisions = await advised(tamiyo_pb2_grpc.ControllerStub(channel), broken, run.packet(2, context=True))
    assert [one.WhichOneof("outcome") for one in decisions] == ["failure", "no_action"]
    assert (decisions[0].failure.code, "training_run_id" in decisions[0].failure.message) == ("ESP-1005", True)


@pytest.mark.req("TAM-24")
async def test_a_kill_forgets_no_decision_and_neither_loses_nor_doubles_a_report(
    tamiyo: ServiceProcess, keyring: Keyring
) -> None:
    run = FakeRun()
    async with tamiyo.channel(keyring) as channel:
        command = await grown(tamiyo_pb2_grpc.ControllerStub(channel), run)
    tamiyo.kill()
    tamiyo.start()
    seed_id = f"{run.run_id}/{command.target_site}/1"
    async with tamiyo.channel(keyring) as channel:
        stub = tamiyo_pb2_grpc.ControllerStub(channel)
        (decision,) = await explained(stub, seed_id=seed_id)
        assert decision.command == command
        assert (decision.inputs.global_step, len(decision.inputs.layers)) == (80, 0)
        assert "GERMINATE of mlp_residual.v1" in decision.summary
        assert not decision.HasField("report")
        assert await reported(stub, run) == []
        kept = run.seed(command, leyline.SEED_STAGE_FOSSILIZED)
        await advised(stub, run.packet(400, context=True, seeds=[kept]), run.packet(410, seeds=[kept]))
        (report,) = await reported(stub, run)
        assert report.report_id == f"fr-synth-{command.command_id}"
    tamiyo.kill()
    tamiyo.start()
    async with tamiyo.channel(keyring) as channel:
        stub = tamiyo_pb2_grpc.ControllerStub(channel)
        await advised(stub, run.packet(500, context=True, seeds=[kept]))
        assert [one.report_id for one in await reported(stub, run)] == [report.report_id]
        (decision,) = await explained(stub, command_id=command.command_id)
        assert decision.report == report


async def test_what_is_not_there_is_told(tamiyo: ServiceProcess, keyring: Keyring) -> None:
    async with tamiyo.channel(keyring) as channel:
        stub = tamiyo_pb2_grpc.ControllerStub(channel)
        with pytest.raises(NotFoundError, match="no decision"), mapped_errors("tamiyo"):
            await explained(stub, seed_id=f"{FakeRun().run_id}/stem/1")
        with pytest.raises(UnimplementedError, match="rule policies"), mapped_errors("tamiyo"):
            await stub.ApplyPolicy(tamiyo_pb2.ApplyPolicyRequest())
        with pytest.raises(UnimplementedError, match="rule policies"), mapped_errors("tamiyo"):
            await stub.RollbackPolicy(tamiyo_pb2.RollbackPolicyRequest(reason="why not"))
        policies = (await stub.GetPolicy(tamiyo_pb2.GetPolicyRequest())).policies
    assert [(one.policy_name, one.active) for one in policies] == [("schedule", True), ("heuristic", False)]


@pytest.mark.req("TAM-22")
async def test_an_operators_order_holds_growth_and_outlives_a_restart(tamiyo: ServiceProcess, keyring: Keyring) -> None:
    run = FakeRun()
    async with tamiyo.channel(keyring) as channel:
        stub = tamiyo_pb2_grpc.ControllerStub(channel)
        order = tamiyo_pb2.SetConservativeModeRequest(enabled=True, reason="The disks are being changed.")
        assert (await stub.SetConservativeMode(order)).enabled
        await advised(stub, run.packet(1, context=True))
    tamiyo.kill()
    tamiyo.start()
    async with tamiyo.channel(keyring) as channel:
        stub = tamiyo_pb2_grpc.ControllerStub(channel)
        (held,) = await advised(stub, run.packet(80, context=True))
        assert held.no_action.metadata.risk.reason == leyline.RISK_REASON_OPERATOR_OVERRIDE
        assert "disks" in held.no_action.explanation
        await stub.SetConservativeMode(tamiyo_pb2.SetConservativeModeRequest(enabled=False, reason="Done."))
        (grows,) = await advised(stub, run.packet(85))
        assert grows.WhichOneof("outcome") == "command"


def test_it_serves_only_once_urza_has_told_its_blueprints(tmp_path: Path, keyring: Keyring) -> None:
    urza = ServiceProcess("urza", tmp_path, tmp_path / "keyring.json")
    tamiyo = ServiceProcess("tamiyo", tmp_path, tmp_path / "keyring.json", {"ESPER_URZA_ADDRESS": urza.address})
    try:
        tamiyo.start(until="NOT_SERVING")
        urza.start()
        wait_until(lambda: tamiyo.health() == "SERVING", 30.0, what="tamiyo serving")
    finally:
        tamiyo.stop()
        urza.stop()


def test_the_running_service_has_no_torch(tamiyo: ServiceProcess) -> None:
    assert tamiyo.process is not None
    maps = Path(f"/proc/{tamiyo.process.pid}/maps").read_text()
    assert "libtorch" not in maps
