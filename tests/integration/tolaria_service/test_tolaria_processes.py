"""Workers outlive Tolaria, and Tolaria outlives workers."""

from __future__ import annotations

import signal

import pytest

from esper_core import leyline
from esper_core.errors import WorkerCrashedError
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from support.tolaria_service import LONG_STEPS, RunClient, TolariaProcess, kill_process, spec
from support.waiting import wait_until

STEPS = 6000


async def has_checkpoint(runs: RunClient, run_id: str) -> leyline.RunStatus:
    """Wait until a run has something to resume from."""
    for_one = leyline.RUN_EVENT_KIND_CHECKPOINT
    step = 1
    while not [event for event in await runs.events(run_id) if event.kind == for_one]:
        step = (await runs.at_step(run_id, step)).progress.step + 1
    return await runs.status(run_id)


async def test_a_killed_worker_is_started_again_and_resumes(tolaria: TolariaProcess, runs: RunClient) -> None:
    run_id = await runs.submit(spec(STEPS))
    killed = await has_checkpoint(runs, run_id)
    kill_process(killed.worker_pid)
    ended = await runs.ended(run_id)
    assert ended.state == leyline.RUN_STATE_COMPLETED
    assert (ended.result.steps, ended.result.resumes) == (STEPS, 1)
    reasons = [event.state.reason for event in await runs.events(run_id) if event.HasField("state")]
    assert any(reason.startswith("Resumed at step") for reason in reasons)


async def test_a_killed_worker_that_was_paused_pauses_again(tolaria: TolariaProcess, runs: RunClient) -> None:
    run_id = await runs.submit(spec(LONG_STEPS))
    await has_checkpoint(runs, run_id)
    paused = await runs.call("PauseRun", tolaria_pb2.PauseRunRequest(training_run_id=run_id, reason="lunch"))
    kill_process(paused.worker_pid)
    again = await runs.until(
        run_id,
        lambda now: now.state == leyline.RUN_STATE_PAUSED and now.worker_pid not in (0, paused.worker_pid),
    )
    assert again.reason == "lunch"


async def test_a_run_goes_on_while_tolaria_is_dead_and_is_adopted(tolaria: TolariaProcess, runs: RunClient) -> None:
    run_id = await runs.submit(spec(LONG_STEPS))
    before = await runs.at_step(run_id, 50)
    tolaria.service.kill()
    log = tolaria.run_folder(run_id) / "status.json"
    written = log.stat().st_mtime_ns
    wait_until(lambda: log.stat().st_mtime_ns > written, 10.0, what="the worker going on")
    assert [worker.pid for worker in tolaria.workers()] == [before.worker_pid]

    tolaria.service.start()
    after = await runs.at_step(run_id, before.progress.step + 100)
    assert after.worker_pid == before.worker_pid
    halted = await runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id))
    assert halted.state == leyline.RUN_STATE_HALTED
    assert "a living worker was adopted" in tolaria.service.log


async def test_tolaria_and_its_worker_die_together_and_the_run_resumes(
    tolaria: TolariaProcess, runs: RunClient
) -> None:
    run_id = await runs.submit(spec(STEPS))
    status = await has_checkpoint(runs, run_id)
    tolaria.service.kill()
    kill_process(status.worker_pid)
    tolaria.service.start()
    ended = await runs.ended(run_id)
    assert ended.state == leyline.RUN_STATE_COMPLETED
    assert (ended.result.steps, ended.result.resumes) == (STEPS, 1)


async def test_tolaria_stops_its_runs_with_a_checkpoint_and_leaves_nothing(
    tolaria: TolariaProcess, runs: RunClient
) -> None:
    trained = await runs.submit(spec(LONG_STEPS))
    await runs.at_step(trained, 50)
    starting = await runs.submit(spec(LONG_STEPS))
    await runs.until(starting, lambda now: now.worker_pid > 0)
    waiting = await runs.submit(spec(LONG_STEPS))
    assert tolaria.service.stop() == 0, tolaria.service.log
    assert tolaria.workers() == []

    tolaria.service.start()
    status = await runs.status(trained)
    assert (status.state, status.reason) == (leyline.RUN_STATE_HALTED, "Tolaria was stopped.")
    assert (await runs.status(starting)).state == leyline.RUN_STATE_HALTED
    assert (await runs.status(waiting)).state not in (leyline.RUN_STATE_HALTED, leyline.RUN_STATE_FAILED)
    listed = await runs.call("ListCheckpoints", tolaria_pb2.ListCheckpointsRequest(training_run_id=trained))
    assert (listed.checkpoints[0].reason, listed.checkpoints[0].step) == ("halt", status.progress.step)
    await runs.call("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=trained))
    await runs.at_step(trained, status.progress.step + 20)


async def test_runs_wait_for_a_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    tolaria = TolariaProcess(tmp_path_factory.mktemp("one"), {"TOLARIA_MAX_PARALLEL_RUNS": "1"})
    try:
        tolaria.service.start()
        async with tolaria.client() as runs:
            first = await runs.submit(spec(LONG_STEPS))
            await runs.until(first, lambda now: now.worker_pid > 0)
            second, third = await runs.submit(spec(20)), await runs.submit(spec(20))
            waiting = await runs.status(third)
            assert (waiting.state, waiting.worker_pid) == (leyline.RUN_STATE_PENDING, 0)
            assert "1 in front of it" in waiting.reason
            dropped = await runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=third))
            assert dropped.state == leyline.RUN_STATE_HALTED
            await runs.call("HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=first))
            assert (await runs.ended(second)).state == leyline.RUN_STATE_COMPLETED
    finally:
        tolaria.sweep()


async def test_a_worker_that_gets_nowhere_fails_its_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {
        "TOLARIA_TASK_ALLOWLIST": "support.dying_task:make",
        "TOLARIA_RESPAWN_LIMIT": "1",
        "PYTHONPATH": str(pytest.importorskip("support").__path__[0] + "/.."),
    }
    tolaria = TolariaProcess(tmp_path_factory.mktemp("loop"), settings)
    try:
        tolaria.service.start()
        async with tolaria.client() as runs:
            run_id = await runs.submit(spec(task="support.dying_task:make"))
            failed = await runs.ended(run_id)
            assert failed.state == leyline.RUN_STATE_FAILED
            assert failed.error_code == WorkerCrashedError.code
            assert "died 2 times" in failed.reason
            assert "exit status 9" in failed.reason
            events = await runs.events(run_id, follow=True)
            assert events[-1].state.to_state == leyline.RUN_STATE_FAILED
    finally:
        tolaria.sweep()


async def test_two_tolarias_never_share_a_folder(tolaria: TolariaProcess) -> None:
    other = TolariaProcess(tolaria.folder, keyring=tolaria.keyring)
    other.service.start(until="")
    assert other.service.process is not None
    assert other.service.process.wait(20) == 73
    assert "in use by process" in other.service.log


async def test_a_worker_that_hangs_does_not_keep_tolaria_from_stopping(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tolaria = TolariaProcess(tmp_path_factory.mktemp("hang"), {"TOLARIA_STOP_GRACE_S": "2"})
    try:
        tolaria.service.start()
        async with tolaria.client() as runs:
            run_id = await runs.submit(spec(LONG_STEPS))
            status = await has_checkpoint(runs, run_id)
            [worker] = tolaria.workers()
            worker.send(signal.SIGSTOP)
            assert tolaria.service.stop() == 0, tolaria.service.log
            assert tolaria.workers() == []
            tolaria.service.start()
            halted = await runs.status(run_id)
            assert halted.state == leyline.RUN_STATE_HALTED
            assert "together with Tolaria" in halted.reason
            await runs.call("ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=run_id))
            await runs.at_step(run_id, status.progress.step + 100)
    finally:
        tolaria.sweep()
