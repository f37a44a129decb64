"""What Tolaria takes and what it refuses, over the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper_core import leyline
from esper_core.errors import (
    AlreadyExistsError,
    ContractError,
    DependencyViolationError,
    EsperError,
    NotFoundError,
    PermissionDeniedError,
    StateConflictError,
    UnimplementedError,
    ValidationError,
)
from esper_core.ids import new_run_id, new_ulid
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from esper_core.rpc import mapped_errors
from support.teaching import ended_run, taught_by
from support.tolaria_service import RunClient, TolariaProcess, spec


async def test_a_run_is_taken_trained_and_told(shared_runs: RunClient) -> None:
    run_id = await shared_runs.submit(spec(60))
    events = await shared_runs.events(run_id, follow=True)
    status = await shared_runs.status(run_id)
    assert status.state == leyline.RUN_STATE_COMPLETED
    assert status.result.steps == 60
    assert status.result.accuracy > 1 / 26
    assert status.worker_pid == 0
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].state.to_state == leyline.RUN_STATE_COMPLETED
    assert await shared_runs.events(run_id, after=events[-2].sequence) == [events[-1]]
    listed = await shared_runs.call("ListRuns", tolaria_pb2.ListRunsRequest(limit=1))
    assert [run.training_run_id for run in listed.runs] == [run_id]


@pytest.mark.req("KAS-18")
async def test_a_run_learns_from_one_that_has_ended_unless_it_is_too_large(
    shared_runs: RunClient, tmp_path: Path
) -> None:
    source = ended_run(tmp_path, steps=5)
    with pytest.raises(ValidationError, match="use a smaller one, or raise the budget") as refused:
        await shared_runs.submit(spec(20, teacher=taught_by(source, memory_bytes=100)))
    assert refused.value.details["allowed"] == "at most 100 bytes"
    run_id = await shared_runs.submit(spec(20, teacher=taught_by(source)))
    events = await shared_runs.events(run_id, follow=True)
    (news,) = [event.teacher for event in events if event.kind == leyline.RUN_EVENT_KIND_TEACHER]
    assert news.takes_part and source.name in news.teacher_id
    status = await shared_runs.status(run_id)
    assert status.state == leyline.RUN_STATE_COMPLETED and status.progress.distillation_loss > 0
    assert status.result.flops >= 20 * news.flops_per_step > 0


async def test_what_the_task_decides_is_told(shared_runs: RunClient) -> None:
    given = leyline.OptimizerSpec(learning_rate=0.002)
    run_id = await shared_runs.submit(leyline.RunSpec(version=1, task="letter", optimizer=given))
    told = await shared_runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id))
    assert told.spec.flops_budget > 0
    assert told.spec.batch_size > 0
    assert (told.spec.optimizer.name, told.spec.optimizer.learning_rate) == ("adam", 0.002)


async def test_the_same_request_gives_the_same_run(tolaria: TolariaProcess, runs: RunClient) -> None:
    first = await runs.submit(spec(20), "wanted-once")
    assert await runs.submit(spec(20), "wanted-once") == first
    tolaria.service.kill()
    tolaria.service.start()
    assert await runs.submit(spec(20), "wanted-once") == first
    with pytest.raises(AlreadyExistsError, match=first):
        await runs.submit(spec(21), "wanted-once")
    answer = await runs.call("ListRuns", tolaria_pb2.ListRunsRequest())
    assert [run.training_run_id for run in answer.runs] == [first]


BAD: list[tuple[dict[str, Any], type[EsperError], str]] = [
    ({"task": "lettre"}, NotFoundError, "letter, mnist1d"),
    ({"task": "os:abort"}, PermissionDeniedError, "TOLARIA_TASK_ALLOWLIST"),
    ({"task": ""}, ValidationError, "spec.task"),
    ({"version": 2}, ContractError, "version"),
    ({"workers": 3}, UnimplementedError, "spec.workers"),
    ({"threads": 1000}, ValidationError, "1 to 256"),
    ({"device": "tpu"}, ValidationError, "cpu, cuda"),
    ({"batch_size": 10**9}, ValidationError, "batch"),
    ({"on_control_loss": "weep"}, ValidationError, "continue, halt"),
    ({"start_from": "/nowhere"}, ValidationError, "spec.start_from"),
    ({"teacher": leyline.TeacherSpec()}, ValidationError, "The teacher has no source"),
    ({"optimizer": leyline.OptimizerSpec(name="adm", learning_rate=1)}, ValidationError, "Did you mean 'adam'"),
    ({"optimizer": leyline.OptimizerSpec(name="sgd", learning_rate=-1)}, ValidationError, "learning rate"),
    ({"learning_rate": leyline.LearningRateSpec(policy="sine")}, ValidationError, "constant, cosine, step, plateau"),
    ({"growth": leyline.GrowthSpec(policy="wild")}, ValidationError, "none, schedule, heuristic, learned"),
    ({"growth": leyline.GrowthSpec(policy="none", sites=["attic"])}, ValidationError, "attic"),
    ({"growth": leyline.GrowthSpec(policy="none", blueprint_ids=["bomb"])}, ValidationError, "mlp_residual.v1"),
    ({"parameters": [leyline.TaskParameter(name="size", text="huge")]}, ValidationError, "small, big"),
    ({"parameters": [leyline.TaskParameter(name="colour", text="red")]}, ValidationError, "size, width, depth"),
]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"), BAD, ids=[f"{n}-{'-'.join(row[0])}" for n, row in enumerate(BAD)]
)
async def test_a_bad_specification_is_refused_with_what_is_allowed(
    shared_runs: RunClient, change: dict[str, Any], kind: type[EsperError], sentence: str
) -> None:
    before = await shared_runs.call("ListRuns", tolaria_pb2.ListRunsRequest())
    with pytest.raises(kind, match=sentence) as caught:
        await shared_runs.submit(spec(**change))
    assert type(caught.value) is kind
    assert caught.value.details["field"]
    assert len((await shared_runs.call("ListRuns", tolaria_pb2.ListRunsRequest())).runs) == len(before.runs)


async def test_ids_are_never_made_up(shared_runs: RunClient) -> None:
    with pytest.raises(DependencyViolationError, match="request_id"):
        await shared_runs.call("SubmitRun", tolaria_pb2.SubmitRunRequest(spec=spec()))
    with pytest.raises(ValidationError, match="spec is missing"):
        await shared_runs.call("SubmitRun", tolaria_pb2.SubmitRunRequest(request_id=new_ulid()))
    with pytest.raises(DependencyViolationError, match="training_run_id"):
        await shared_runs.call("GetRun", tolaria_pb2.GetRunRequest())
    with pytest.raises(ValidationError, match="ULID"):
        await shared_runs.status("../../etc")
    with pytest.raises(NotFoundError, match="There is no run"):
        await shared_runs.status(new_run_id())


async def test_an_ended_run_cannot_be_steered(shared_runs: RunClient) -> None:
    run_id = await shared_runs.submit(spec(5))
    await shared_runs.ended(run_id)
    for method, request in (
        ("PauseRun", tolaria_pb2.PauseRunRequest(training_run_id=run_id)),
        ("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=run_id)),
        ("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id)),
        ("RollbackRun", tolaria_pb2.RollbackRunRequest(training_run_id=run_id)),
    ):
        with pytest.raises(StateConflictError, match="COMPLETED"):
            await shared_runs.call(method, request)


async def test_viewers_look_and_only_workers_attach(shared_tolaria: TolariaProcess) -> None:
    async with shared_tolaria.channel("someone", "viewer") as channel:
        stub = tolaria_pb2_grpc.RunServiceStub(channel)
        await stub.ListRuns(tolaria_pb2.ListRunsRequest())
        with pytest.raises(PermissionDeniedError), mapped_errors("tolaria"):
            await stub.SubmitRun(tolaria_pb2.SubmitRunRequest(spec=spec(), request_id=new_ulid()))
    hello = tolaria_pb2.WorkerReport(hello=tolaria_pb2.WorkerHello(training_run_id=new_run_id(), pid=1, attempt=1))
    for subject, role, sentence in (
        ("tolaria-worker", "operator", "needs the role service"),
        ("kasmina", "service", "own workers"),
    ):
        async with shared_tolaria.channel(subject, role) as channel:
            with pytest.raises(PermissionDeniedError, match=sentence), mapped_errors("tolaria"):
                await anext(aiter(tolaria_pb2_grpc.WorkerLinkStub(channel).Attach(iter([hello]))))
