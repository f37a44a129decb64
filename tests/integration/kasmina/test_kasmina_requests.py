"""What is asked of Kasmina, from streams and from outside: done for whom it may be done for, and else refused."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import ContractError, NotFoundError, PermissionDeniedError, StateConflictError, ValidationError
from esper_core.ids import new_run_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.rpc import EsperChannel, mapped_errors, open_channel
from esper_core.security import Keyring, MessageSigner, TokenSource
from esper_core.security.signing import signed_bytes
from support.kasmina_stream import StreamRuntime
from support.service_process import ServiceProcess
from support.waiting import await_until


def metric(service: ServiceProcess, name: str) -> float:
    """Return the sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{service.metrics_address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


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
