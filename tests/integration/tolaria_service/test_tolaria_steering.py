"""Steering a run that trains: over the wire, to the worker's next fence and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import NotFoundError, StateConflictError, ValidationError
from esper_core.ids import new_run_id, new_ulid
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from esper_runtime.export import load_exported
from support.tolaria_service import LONG_STEPS, RunClient, TolariaProcess, spec


@pytest.fixture
async def training(shared_runs: RunClient) -> AsyncIterator[str]:
    """A run that trains for as long as the test wants."""
    run_id = await shared_runs.submit(spec(LONG_STEPS))
    await shared_runs.at_step(run_id, 50)
    yield run_id
    if (await shared_runs.status(run_id)).state not in (leyline.RUN_STATE_HALTED, leyline.RUN_STATE_COMPLETED):
        await shared_runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id))


def events_of(events: list[leyline.RunEvent], kind: leyline.RunEventKind.ValueType) -> list[leyline.RunEvent]:
    return [event for event in events if event.kind == kind]


async def test_a_paused_run_stands_still_and_goes_on(shared_runs: RunClient, training: str) -> None:
    request = tolaria_pb2.PauseRunRequest(training_run_id=training, reason="lunch")
    paused = await shared_runs.call("PauseRun", request)
    assert (paused.state, paused.reason) == (leyline.RUN_STATE_PAUSED, "lunch")
    again = await shared_runs.call("PauseRun", request)
    assert again.progress.step == paused.progress.step
    resumed = await shared_runs.call("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=training))
    assert resumed.state == leyline.RUN_STATE_RUNNING
    await shared_runs.at_step(training, paused.progress.step + 20)


async def test_a_halted_run_resumes_from_its_checkpoint(shared_runs: RunClient) -> None:
    run_id = await shared_runs.submit(spec(3000))
    await shared_runs.at_step(run_id, 50)
    halted = await shared_runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id, reason="enough"))
    assert (halted.state, halted.reason) == (leyline.RUN_STATE_HALTED, "enough")
    step = halted.progress.step
    assert 50 <= step < 3000
    listed = await shared_runs.call("ListCheckpoints", tolaria_pb2.ListCheckpointsRequest(training_run_id=run_id))
    newest = listed.checkpoints[0]
    assert (newest.step, newest.reason, newest.good) == (step, "halt", True)

    resumed = await shared_runs.call("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=run_id))
    assert resumed.state in (leyline.RUN_STATE_PENDING, leyline.RUN_STATE_RUNNING)
    ended = await shared_runs.ended(run_id)
    assert ended.state == leyline.RUN_STATE_COMPLETED
    assert (ended.result.steps, ended.result.resumes) == (3000, 0)
    events = await shared_runs.events(run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    states = [event.state.to_state for event in events_of(events, leyline.RUN_EVENT_KIND_STATE)]
    assert states == [
        leyline.RUN_STATE_RUNNING,
        leyline.RUN_STATE_HALTED,
        leyline.RUN_STATE_PENDING,
        leyline.RUN_STATE_RUNNING,
        leyline.RUN_STATE_COMPLETED,
    ]


async def test_an_operator_rolls_a_run_back(shared_runs: RunClient, training: str) -> None:
    await shared_runs.at_step(training, 200)
    request = tolaria_pb2.RollbackRunRequest(training_run_id=training)
    report = await shared_runs.call("RollbackRun", request)
    assert report.outcome == leyline.ROLLBACK_OUTCOME_FAST_HIT
    assert report.HasField("restored_step")
    told = events_of(await shared_runs.events(training), leyline.RUN_EVENT_KIND_ROLLBACK)
    assert told[-1].rollback.restored_step == report.restored_step


async def test_a_rollback_to_before_everything_is_told_as_a_miss(shared_runs: RunClient, training: str) -> None:
    request = tolaria_pb2.RollbackRunRequest(training_run_id=training, to_step=0, full=True)
    report = await shared_runs.call("RollbackRun", request)
    assert report.outcome == leyline.ROLLBACK_OUTCOME_MISS
    assert report.message


async def test_events_are_followed_to_the_end_from_any_place(shared_runs: RunClient) -> None:
    run_id = await shared_runs.submit(spec(2000))
    followers = [asyncio.create_task(shared_runs.events(run_id, after, follow=True)) for after in (0, 2)]
    everything, later = await asyncio.gather(*followers)
    assert [event.sequence for event in everything] == list(range(1, len(everything) + 1))
    assert later == everything[2:]


async def test_an_emergency_of_the_highest_level_halts_with_a_checkpoint(shared_runs: RunClient, training: str) -> None:
    request = tolaria_pb2.RaiseEmergencyRequest(
        level=leyline.EMERGENCY_LEVEL_HALT, reason="drill", signal_id=new_ulid(), origin="test"
    )
    told = await shared_runs.call("RaiseEmergency", request)
    assert list(told.training_run_ids) == [training]
    ended = await shared_runs.ended(training)
    assert ended.state == leyline.RUN_STATE_HALTED
    assert "drill" in ended.reason
    notes = events_of(await shared_runs.events(training), leyline.RUN_EVENT_KIND_EMERGENCY)
    assert [(note.emergency.signal_id, note.emergency.origin) for note in notes] == [(request.signal_id, "test")]

    await shared_runs.call("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=training))
    assert list((await shared_runs.call("RaiseEmergency", request)).training_run_ids) == [training]
    status = await shared_runs.at_step(training, ended.progress.step + 20)
    assert status.state == leyline.RUN_STATE_RUNNING


async def test_a_run_is_conservative_until_the_emergency_is_cleared(shared_runs: RunClient, training: str) -> None:
    raised = tolaria_pb2.RaiseEmergencyRequest(
        level=leyline.EMERGENCY_LEVEL_CONSERVATIVE,
        reason="smoke",
        training_run_id=training,
        signal_id=new_ulid(),
        origin="test",
    )
    await shared_runs.call("RaiseEmergency", raised)
    await shared_runs.until(training, lambda status: status.state == leyline.RUN_STATE_CONSERVATIVE)
    cleared = tolaria_pb2.ClearEmergencyRequest(training_run_id=training, reason="aired")
    assert list((await shared_runs.call("ClearEmergency", cleared)).training_run_ids) == [training]
    await shared_runs.until(training, lambda status: status.state == leyline.RUN_STATE_RUNNING)


async def test_an_emergency_names_its_run_its_signal_and_its_reason(shared_runs: RunClient) -> None:
    request = tolaria_pb2.RaiseEmergencyRequest(
        level=leyline.EMERGENCY_LEVEL_HALT,
        reason="drill",
        training_run_id=new_run_id(),
        signal_id=new_ulid(),
        origin="test",
    )
    with pytest.raises(NotFoundError):
        await shared_runs.call("RaiseEmergency", request)
    request.reason = " "
    with pytest.raises(ValidationError, match="reason"):
        await shared_runs.call("RaiseEmergency", request)


async def test_a_completed_run_is_exported_and_loads_without_services(shared_runs: RunClient, tmp_path: Path) -> None:
    run_id = await shared_runs.submit(spec(30))
    running = tolaria_pb2.ExportRunRequest(training_run_id=run_id, folder=str(tmp_path / "model"))
    with pytest.raises(StateConflictError, match="COMPLETED or HALTED"):
        await shared_runs.call("ExportRun", running)
    ended = await shared_runs.ended(run_id)
    answer = await shared_runs.call("ExportRun", running)
    assert {"model.safetensors", "topology.json"} <= set(answer.files)
    assert answer.topology_digest == ended.result.topology_digest
    model = load_exported(tmp_path / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == ended.result.parameters_final
    with pytest.raises(ValidationError, match="not empty"):
        await shared_runs.call("ExportRun", running)


async def test_a_damaged_checkpoint_is_listed_with_its_problem(
    shared_runs: RunClient, shared_tolaria: TolariaProcess
) -> None:
    run_id = await shared_runs.submit(spec(30))
    await shared_runs.ended(run_id)
    folder = next((shared_tolaria.run_folder(run_id) / "checkpoints").iterdir())
    weights = folder / "tensors.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    listed = await shared_runs.call("ListCheckpoints", tolaria_pb2.ListCheckpointsRequest(training_run_id=run_id))
    assert [row.good for row in listed.checkpoints] == [False]
    assert listed.checkpoints[0].problem
