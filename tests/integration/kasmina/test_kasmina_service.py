"""Whole lives on a stream between processes: seeds kept, culled and waited for, whoever is killed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.ids import new_run_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.rpc import EsperChannel
from esper_core.security import Keyring
from support.kasmina_stream import StreamRuntime, put_kernel
from support.service_process import ServiceProcess
from support.waiting import await_until, wait_until

FOSSILIZED = leyline.SEED_STAGE_FOSSILIZED
PROBATIONARY = leyline.SEED_STAGE_PROBATIONARY


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
