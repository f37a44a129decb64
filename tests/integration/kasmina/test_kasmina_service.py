"""Kasmina and Urza as processes, with a scripted runtime on the stream: whole lives, kills, and bad input."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import (
    ContractError,
    NotFoundError,
    PermissionDeniedError,
    StateConflictError,
    ValidationError,
)
from esper_core.ids import new_run_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.rpc import EsperChannel, mapped_errors, open_channel
from esper_core.security import Keyring, MessageSigner, TokenSource
from esper_core.security.signing import signed_bytes
from support.kasmina_stream import StreamRuntime, put_kernel
from support.service_process import ServiceProcess
from support.waiting import await_until, wait_until

FOSSILIZED = leyline.SEED_STAGE_FOSSILIZED
PROBATIONARY = leyline.SEED_STAGE_PROBATIONARY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kasmina")


@pytest.fixture(scope="module")
def keyring(folder: Path) -> Keyring:
    ring = Keyring.generate()
    ring.save(folder / "keyring.json")
    return ring


@pytest.fixture(scope="module")
def urza(folder: Path, keyring: Keyring) -> Iterator[ServiceProcess]:
    service = ServiceProcess("urza", folder, folder / "keyring.json")
    service.start()
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture(scope="module")
def kasmina(folder: Path, urza: ServiceProcess) -> Iterator[ServiceProcess]:
    settings = {"ESPER_URZA_ADDRESS": urza.address, "KASMINA_KERNEL_WAIT_S": "3", "KASMINA_EMBARGO_EPOCHS": "2"}
    service = ServiceProcess("kasmina", folder, folder / "keyring.json", settings)
    service.start()
    yield service
    assert service.stop() == 0, service.log


@pytest.fixture
async def library(urza: ServiceProcess, keyring: Keyring) -> AsyncIterator[EsperChannel]:
    async with urza.channel(keyring) as channel:
        yield channel


@pytest.fixture
async def channel(kasmina: ServiceProcess, keyring: Keyring) -> AsyncIterator[EsperChannel]:
    async with kasmina.channel(keyring) as channel:
        yield channel


@pytest.fixture
async def run(channel: EsperChannel, library: EsperChannel, keyring: Keyring) -> AsyncIterator[StreamRuntime]:
    """A connected run whose kernel lies in Urza."""
    await put_kernel(library)
    runtime = StreamRuntime(new_run_id(), keyring)
    await runtime.connect(channel)
    yield runtime
    runtime.cut()


def metric(service: ServiceProcess, name: str) -> float:
    """Return the sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{service.metrics_address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.mark.req("KAS-25")
async def test_a_whole_life_from_command_to_part_of_the_host(run: StreamRuntime, channel: EsperChannel) -> None:
    outcome = await run.command(run.germinate())
    assert outcome.accepted, outcome.explanation
    seed_id = outcome.seed_id
    await run.train_until(seed_id, PROBATIONARY)
    kept = await run.command(run.about(seed_id, leyline.SEED_OPERATION_FOSSILIZE))
    assert kept.accepted, kept.explanation
    await run.train_until(seed_id, FOSSILIZED)
    await await_until(lambda: run.of("transition")[-1].to_stage == FOSSILIZED)

    record = await kasmina_pb2_grpc.ExecutorStub(channel).GetSeed(kasmina_pb2.GetSeedRequest(seed_id=seed_id))
    assert [move.to_stage for move in record.transitions] == [2, 3, 4, 5, 6, 7]
    assert record.transitions[-1].command_id == kept.command_id
    assert all(gate.passed for gate in record.gates)
    assert {gate.gate for gate in record.gates} >= {1, 2, 3, 4, 5}
    assert record.state.contribution_low > 0
    assert [command.accepted for command in record.commands] == [True, True]
    assert len(run.of("transition")) == 6
    assert len({directive.directive_id for directive in run.of("directive")}) == len(run.of("directive"))


async def test_a_seed_without_merit_is_culled_and_its_site_freed(run: StreamRuntime, channel: EsperChannel) -> None:
    run.contribution = -0.05
    outcome = await run.command(run.germinate())

    async def gone() -> bool:
        await run.train(4)
        moves = run.of("transition")
        return bool(moves) and moves[-1].to_stage == leyline.SEED_STAGE_DORMANT

    left: bool = await await_until(gone, 30, what="the seed being gone")
    assert left
    assert run.held == {}
    stages = [move.to_stage for move in run.of("transition")]
    assert stages == [2, 3, 4, 5, 8, 9, 10, 1]
    failed = [gate for gate in run.of("gate") if not gate.passed]
    assert [gate.reason for gate in failed] == ["no_contribution"]
    listed = await kasmina_pb2_grpc.ExecutorStub(channel).ListSeeds(
        kasmina_pb2.ListSeedsRequest(training_run_id=run.run_id)
    )
    assert not listed.seeds
    assert outcome.seed_id


@pytest.mark.chaos
async def test_a_kill_at_any_stage_loses_nothing_and_a_replayed_nonce_stays_refused(
    kasmina: ServiceProcess, keyring: Keyring, library: EsperChannel
) -> None:
    await put_kernel(library)
    run = StreamRuntime(new_run_id(), keyring)
    command = run.germinate()
    seed_id = ""
    for stage in (leyline.SEED_STAGE_GERMINATED, *range(3, 8)):
        kasmina.kill()
        kasmina.start()
        async with kasmina.channel(keyring) as channel:
            welcome = await run.connect(channel)
            assert welcome.known_run == bool(seed_id)
            assert not welcome.notes, welcome.notes
            if not seed_id:
                seed_id = (await run.command(command)).seed_id
            elif stage == leyline.SEED_STAGE_TRAINING:
                replayed = await run.command(command)
                assert replayed.reject_reason == leyline.REJECT_REASON_NONCE_REPLAYED, replayed.explanation
            if stage == FOSSILIZED:
                assert (await run.command(run.about(seed_id, leyline.SEED_OPERATION_FOSSILIZE))).accepted
            await run.train_until(seed_id, stage)
            run.cut()
    async with kasmina.channel(keyring) as channel:
        await run.connect(channel)
        record = await kasmina_pb2_grpc.ExecutorStub(channel).GetSeed(kasmina_pb2.GetSeedRequest(seed_id=seed_id))
        assert [move.to_stage for move in record.transitions] == [2, 3, 4, 5, 6, 7]
        run.cut()


@pytest.mark.chaos
async def test_an_unanswered_directive_comes_again_after_a_kill_with_the_same_id(
    kasmina: ServiceProcess, keyring: Keyring, library: EsperChannel
) -> None:
    await put_kernel(library)
    run = StreamRuntime(new_run_id(), keyring, mute=True)
    async with kasmina.channel(keyring) as channel:
        await run.connect(channel)
        assert (await run.command(run.germinate())).accepted
        await await_until(lambda: len(run.of("directive")) == 1)
        run.cut()
    kasmina.kill()
    kasmina.start()
    run.mute = False
    async with kasmina.channel(keyring) as channel:
        await run.connect(channel)
        await await_until(lambda: len(run.held) == 1, what="the seed being attached")
        assert run.of("directive")[0].directive_id == run.of("directive")[1].directive_id
        run.cut()


async def test_a_newer_stream_of_a_run_ends_the_older(run: StreamRuntime, channel: EsperChannel) -> None:
    other = StreamRuntime(run.run_id, run.keyring)
    await other.connect(channel)
    with pytest.raises(StateConflictError, match="Another runtime"), mapped_errors("kasmina"):
        await run.listening
    other.cut()


def unsigned(run: StreamRuntime) -> leyline.AdaptationCommand:
    command = run.germinate()
    command.ClearField("security")
    return command


def tampered(run: StreamRuntime) -> leyline.AdaptationCommand:
    command = run.germinate()
    command.target_site = "attic"
    return command


def dated(run: StreamRuntime, seconds: float) -> leyline.AdaptationCommand:
    command = run.germinate()
    command.security.issued_at.CopyFrom(to_timestamp(datetime.now(UTC) + timedelta(seconds=seconds)))
    command.security.signature = run.keyring.sign("command", signed_bytes(command)).hex()
    return command


def unspecified(run: StreamRuntime) -> leyline.AdaptationCommand:
    return run.signed(type=leyline.COMMAND_TYPE_UNSPECIFIED)


def other_version(run: StreamRuntime) -> leyline.AdaptationCommand:
    return run.signed(version=2)


def out_of_bounds(run: StreamRuntime) -> leyline.AdaptationCommand:
    return run.germinate(parameters=[leyline.BlueprintParameter(name="expansion", real=1e9)])


BAD: list[tuple[Callable[[StreamRuntime], leyline.AdaptationCommand], int, str]] = [
    (unsigned, leyline.REJECT_REASON_MISSING_SIGNATURE, "not signed"),
    (tampered, leyline.REJECT_REASON_INVALID_SIGNATURE, "does not match"),
    (lambda run: dated(run, 30), leyline.REJECT_REASON_ISSUED_IN_FUTURE, ""),
    (lambda run: dated(run, -120), leyline.REJECT_REASON_STALE_COMMAND, ""),
    (lambda run: run.germinate(based_on_generation=9), leyline.REJECT_REASON_STALE_GENERATION, "generation 9"),
    (lambda run: run.germinate(target_site="attic"), leyline.REJECT_REASON_VALIDATION_FAILED, "Allowed: hidden"),
    (lambda run: run.germinate("nothing.v1"), leyline.REJECT_REASON_VALIDATION_FAILED, "Allowed: mlp_residual.v1"),
    (out_of_bounds, leyline.REJECT_REASON_VALIDATION_FAILED, "expansion"),
    (unspecified, leyline.REJECT_REASON_VALIDATION_FAILED, "UNSPECIFIED"),
    (other_version, leyline.REJECT_REASON_VALIDATION_FAILED, "version"),
    (lambda run: run.germinate(training_run_id=new_run_id()), leyline.REJECT_REASON_VALIDATION_FAILED, "is for run"),
]


@pytest.mark.req("KAS-25", "KAS-26")
async def test_every_bad_command_is_refused_with_its_reason_and_the_stream_goes_on(
    run: StreamRuntime, kasmina: ServiceProcess
) -> None:
    before = metric(kasmina, "kasmina_command_verifier_rejected_total")
    for make, reason, words in BAD:
        outcome = await run.command(make(run))
        assert not outcome.accepted
        assert outcome.reject_reason == reason, outcome.explanation
        assert words in outcome.explanation
    assert metric(kasmina, "kasmina_command_verifier_rejected_total") == before + len(BAD)
    assert not run.of("directive")
    accepted = await run.command(run.germinate())
    assert accepted.accepted, accepted.explanation
    assert (await run.command(run.germinate())).accepted is False


async def test_a_germination_waits_for_its_kernel(run: StreamRuntime, library: EsperChannel) -> None:
    await run.say(command=run.germinate("norm.v1"))
    await run.train(8)
    assert not run.of("outcome")
    await put_kernel(library, "norm.v1")
    await await_until(lambda: run.of("outcome"), what="the outcome")
    assert run.of("outcome")[0].accepted, run.of("outcome")[0].explanation


async def test_a_kernel_that_never_comes_is_a_typed_refusal(channel: EsperChannel, keyring: Keyring) -> None:
    run = StreamRuntime(new_run_id(), keyring, blueprint_ids=("low_rank_linear.v1",))
    await run.connect(channel)
    outcome = await run.command(run.germinate("low_rank_linear.v1"))
    assert not outcome.accepted
    assert "No kernel of low_rank_linear.v1 lies ready" in outcome.explanation and "ESP-10" in outcome.explanation
    await await_until(lambda: run.of("gate"), what="the verdict of G0")
    assert run.of("gate")[-1].reason == "kernel_missing"
    run.cut()


async def test_apply_command_reaches_the_connected_run_and_nobody_else(
    run: StreamRuntime, channel: EsperChannel
) -> None:
    stub = kasmina_pb2_grpc.ExecutorStub(channel)
    outcome = await stub.ApplyCommand(kasmina_pb2.ApplyCommandRequest(command=run.germinate()))
    assert outcome.accepted
    await await_until(lambda: len(run.held) == 1, what="the seed being attached")
    with pytest.raises(NotFoundError), mapped_errors("kasmina"):
        stranger = run.germinate(training_run_id=new_run_id())
        await stub.ApplyCommand(kasmina_pb2.ApplyCommandRequest(command=stranger))


async def test_a_registry_is_reset_only_after_its_run_has_ended(run: StreamRuntime, channel: EsperChannel) -> None:
    stub = kasmina_pb2_grpc.ExecutorStub(channel)
    request = kasmina_pb2.ResetRegistryRequest(training_run_id=run.run_id, reason="The run is over.")
    await run.command(run.germinate())
    with pytest.raises(StateConflictError, match="under way"), mapped_errors("kasmina"):
        await stub.ResetRegistry(request)
    await run.say(ended=kasmina_pb2.RunEnded(reason="completed", resumable=False))
    await run.close()
    answer = await stub.ResetRegistry(request)
    assert answer.seeds_cleared == 1
    with pytest.raises(NotFoundError), mapped_errors("kasmina"):
        await stub.ResetRegistry(request)


@pytest.mark.req("KAS-13", "KAS-28")
async def test_a_teacher_is_reset_in_its_runtime_and_only_once(run: StreamRuntime, channel: EsperChannel) -> None:
    stub = kasmina_pb2_grpc.ExecutorStub(channel)
    request = kasmina_pb2.ResetTeacherRequest(training_run_id=run.run_id, reason="It teaches nonsense.")
    assert not (await stub.ResetTeacher(request)).had_teacher
    for teacher in ("first", "second"):
        run.cut()
        run.teacher_id = teacher
        await run.connect(channel)
    assert (await stub.ResetTeacher(request)).had_teacher
    await await_until(lambda: run.of("teacher_reset"), what="the order to the runtime")
    told = run.of("teacher_reset")
    assert [(one.teacher_id, one.reason) for one in told] == [("second", "It teaches nonsense.")]
    assert not (await stub.ResetTeacher(request)).had_teacher
    with pytest.raises(NotFoundError), mapped_errors("kasmina"):
        await stub.ResetTeacher(kasmina_pb2.ResetTeacherRequest(training_run_id=new_run_id()))


@pytest.mark.req("KAS-28")
async def test_a_teacher_whose_runtime_is_away_is_not_reset_behind_its_back(
    run: StreamRuntime, channel: EsperChannel
) -> None:
    run.cut()
    run.teacher_id = "mentor"
    await run.connect(channel)
    await run.close()
    with pytest.raises(StateConflictError, match="not connected"), mapped_errors("kasmina"):
        request = kasmina_pb2.ResetTeacherRequest(training_run_id=run.run_id)
        await kasmina_pb2_grpc.ExecutorStub(channel).ResetTeacher(request)


async def test_a_stream_that_breaks_the_contract_ends_with_the_field(channel: EsperChannel, keyring: Keyring) -> None:
    run = StreamRuntime(new_run_id(), keyring)
    run.call = kasmina_pb2_grpc.ExecutorStub(channel).Execute()
    await run.say(boundary=kasmina_pb2.Boundary(global_step=1))
    with pytest.raises(ValidationError, match="first message must be a hello"), mapped_errors("kasmina"):
        await run._listen()
    greeting = run.hello()
    greeting.version = 3
    run.call = kasmina_pb2_grpc.ExecutorStub(channel).Execute()
    await run.say(hello=greeting)
    with pytest.raises(ContractError, match="version"), mapped_errors("kasmina"):
        await run._listen()


async def test_a_viewer_may_look_but_not_act(kasmina: ServiceProcess, keyring: Keyring) -> None:
    async with open_channel(kasmina.address, TokenSource(keyring, "someone", "viewer"), "someone") as channel:
        stub = kasmina_pb2_grpc.ExecutorStub(channel)
        await stub.ListSeeds(kasmina_pb2.ListSeedsRequest())
        with pytest.raises(PermissionDeniedError), mapped_errors("kasmina"):
            await stub.ApplyCommand(kasmina_pb2.ApplyCommandRequest())


async def test_a_stranger_cannot_sign(run: StreamRuntime) -> None:
    command = run.germinate()
    MessageSigner(Keyring.generate("k7"), "command").sign(command)
    outcome = await run.command(command)
    assert outcome.reject_reason == leyline.REJECT_REASON_UNKNOWN_KEY


def test_a_second_kasmina_on_the_same_folder_is_refused(kasmina: ServiceProcess, folder: Path) -> None:
    second = ServiceProcess("kasmina", folder, kasmina.keyring_file, kasmina.environment)
    second.start(until="")
    assert second.process is not None
    assert wait_until(second.process.poll, 20) == 75 or second.process.returncode != 0
    assert "in use by process" in second.log


@pytest.mark.chaos
def test_kasmina_stays_up_and_says_so_while_urza_is_away(kasmina: ServiceProcess, urza: ServiceProcess) -> None:
    urza.kill()
    wait_until(lambda: kasmina.health() == "NOT_SERVING", 20, what="NOT_SERVING")
    urza.start()
    wait_until(lambda: kasmina.health() == "SERVING", 20, what="SERVING again")
