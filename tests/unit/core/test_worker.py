"""The shared worker: what overruns is stopped, what is stopped is gone, and the counters add up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper_core.errors import (
    InternalError,
    NotFoundError,
    OperationCancelledError,
    ResourceExhaustedError,
    StateConflictError,
    TimeoutExceededError,
    ValidationError,
    WorkerCrashedError,
)
from esper_core.worker import AsyncWorker, WorkerStats
from support.waiting import wait_until
from support.worker_jobs import die, refuse, spin, spin_with_a_child_of_its_own, square, unsendable

pytestmark = pytest.mark.req("COR-2")


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


async def forever(started: threading.Event, cleaned: threading.Event) -> None:
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        cleaned.set()


def assert_adds_up(stats: WorkerStats) -> None:
    ended = stats.completed + stats.failed + stats.timed_out + stats.cancelled + stats.crashed
    assert stats.submitted == ended + stats.queued + stats.running


def test_results_and_errors_reach_the_caller() -> None:
    async def missing() -> None:
        raise NotFoundError("nothing here")

    with AsyncWorker() as worker:
        assert worker.submit(double, 21, timeout_s=10).result(10) == 42
        with pytest.raises(NotFoundError, match="nothing here"):
            worker.submit(missing, timeout_s=10).result(10)
        stats = worker.stats()
    assert (stats.completed, stats.failed) == (1, 1)
    assert_adds_up(stats)


async def test_a_job_can_be_awaited_from_another_loop() -> None:
    worker = AsyncWorker()
    assert await worker.submit(double, 4, timeout_s=10) == 8
    assert (await worker.aclose()).clean


async def test_it_runs_on_a_loop_that_it_is_given() -> None:
    worker = AsyncWorker(loop=asyncio.get_running_loop())

    async def which() -> bool:
        return asyncio.get_running_loop() is loop

    loop = asyncio.get_running_loop()
    assert await worker.submit(which, timeout_s=10)
    with pytest.raises(StateConflictError, match="aclose"):
        worker.shutdown()
    assert (await worker.aclose()).clean


def test_an_overrunning_coroutine_is_cancelled_and_awaited() -> None:
    started, cleaned = threading.Event(), threading.Event()
    with AsyncWorker() as worker:
        job = worker.submit(forever, started, cleaned, timeout_s=0.05)
        with pytest.raises(TimeoutExceededError, match="missed its deadline") as caught:
            job.result(10)
        assert cleaned.is_set()
        assert caught.value.details["stopped"] == "true"
        assert worker.stats().timed_out == 1


def test_the_deadline_includes_the_wait_in_the_queue() -> None:
    started, cleaned, ran = threading.Event(), threading.Event(), threading.Event()

    async def late() -> None:
        ran.set()

    with AsyncWorker(max_concurrency=1) as worker:
        worker.submit(forever, started, cleaned, timeout_s=30)
        with pytest.raises(TimeoutExceededError, match="in the queue"):
            worker.submit(late, timeout_s=0.05).result(10)
    assert not ran.is_set()


def test_concurrency_is_bounded() -> None:
    active, most = 0, 0

    async def count() -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.001)
        active -= 1

    with AsyncWorker(max_concurrency=3) as worker:
        for job in [worker.submit(count, timeout_s=20) for _ in range(40)]:
            job.result(20)
    assert most == 3


def test_a_full_queue_refuses() -> None:
    started, cleaned = threading.Event(), threading.Event()
    with AsyncWorker(max_concurrency=1, max_queue=1) as worker:
        for _ in range(2):
            worker.submit(forever, started, cleaned, timeout_s=30)
        with pytest.raises(ResourceExhaustedError) as caught:
            worker.submit(double, 1, timeout_s=1)
        assert caught.value.retry_after_s is not None
        assert worker.stats().refused == 1


def test_cancelling_stops_the_work_in_every_phase() -> None:
    started, cleaned = threading.Event(), threading.Event()
    with AsyncWorker(max_concurrency=1) as worker:
        running = worker.submit(forever, started, cleaned, timeout_s=30)
        assert started.wait(10)
        queued = worker.submit(double, 1, timeout_s=30)
        just_submitted = worker.submit(double, 2, timeout_s=30)
        just_submitted.cancel()
        queued.cancel()
        queued.cancel()
        running.cancel()
        for job in (running, queued, just_submitted):
            with pytest.raises(OperationCancelledError):
                job.result(10)
        assert cleaned.is_set()
        assert worker.stats().cancelled == 3
        assert worker.submit(double, 3, timeout_s=10).result(10) == 6


async def test_cancelling_the_awaiting_task_cancels_the_job() -> None:
    started, cleaned = threading.Event(), threading.Event()
    worker = AsyncWorker()
    job = worker.submit(forever, started, cleaned, timeout_s=30)

    async def wait_for_it() -> None:
        await job

    waiter = asyncio.create_task(wait_for_it())
    await asyncio.to_thread(started.wait, 10)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert await asyncio.to_thread(cleaned.wait, 10)
    await worker.aclose()


def test_a_coroutine_that_ignores_cancellation_is_told_and_keeps_its_slot() -> None:
    release = threading.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue

    with AsyncWorker(max_concurrency=1, cancel_grace_s=0.05) as worker:
        job = worker.submit(stubborn, timeout_s=0.02)
        with pytest.raises(TimeoutExceededError, match="ignores its cancellation"):
            job.result(10)
        assert worker.stats().stuck == 1
        with pytest.raises(TimeoutExceededError, match="in the queue"):
            worker.submit(double, 1, timeout_s=0.05).result(10)
        release.set()
        assert worker.submit(double, 1, timeout_s=10).result(10) == 2
        assert worker.stats().stuck == 0


def test_shutdown_stops_everything_and_takes_no_more() -> None:
    started, cleaned = threading.Event(), threading.Event()
    worker = AsyncWorker(max_concurrency=2)
    jobs = [worker.submit(forever, started, cleaned, timeout_s=30) for _ in range(5)]
    assert started.wait(10)
    report = worker.shutdown(10)
    assert (report.cancelled, report.clean) == (5, True)
    for job in jobs:
        with pytest.raises(OperationCancelledError):
            job.result(0)
    with pytest.raises(StateConflictError, match="shut down"):
        worker.submit(double, 1, timeout_s=1)
    assert worker.shutdown(1).clean


def test_shutdown_is_bounded_when_a_job_blocks_the_loop() -> None:
    release = threading.Event()

    async def blocks() -> None:
        release.wait(30)

    worker = AsyncWorker()
    job = worker.submit(blocks, timeout_s=30)
    begun = time.monotonic()
    report = worker.shutdown(0.3)
    assert time.monotonic() - begun < 5
    assert not report.clean
    with pytest.raises(OperationCancelledError, match="blocked"):
        job.result(0)
    release.set()


def gone(pid: int) -> bool:
    """Say whether a process is over; its first thread may be a zombie while others still die, and hold its files."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (psutil.NoSuchProcess, FileNotFoundError):
        return True


def read_pid(marker: Path) -> int:
    wait_until(lambda: marker.exists() and marker.read_text(), 20)
    return int(marker.read_text())


@pytest.fixture(scope="module")
def blocking_worker() -> Iterator[AsyncWorker]:
    worker = AsyncWorker("blocking", max_children=1)
    worker.warm_children().result(60)
    yield worker
    assert worker.shutdown(20).clean


def test_blocking_work_returns_from_one_child_again_and_again(blocking_worker: AsyncWorker) -> None:
    pids = {blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30) for _ in range(5)}
    assert len(pids) == 1 and os.getpid() not in pids


def test_an_error_crosses_whole(blocking_worker: AsyncWorker) -> None:
    with pytest.raises(NotFoundError, match="no kernel") as caught:
        blocking_worker.submit_blocking(refuse, "kernel", timeout_s=30).result(30)
    assert (caught.value.details, caught.value.retry_after_s) == ({"name": "kernel"}, 2.0)


def test_what_cannot_cross_is_told(blocking_worker: AsyncWorker) -> None:
    with pytest.raises(InternalError, match="cannot leave the child"):
        blocking_worker.submit_blocking(unsendable, timeout_s=30).result(30)
    with pytest.raises(ValidationError, match="cannot be sent"):
        blocking_worker.submit_blocking(lambda: None, timeout_s=30).result(30)
    assert blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30) > 0


@pytest.mark.parametrize("work", [spin, spin_with_a_child_of_its_own])
def test_overrunning_computation_is_killed_and_its_child_replaced(
    blocking_worker: AsyncWorker, tmp_path: Path, work: object
) -> None:
    marker = tmp_path / "pid"
    before = blocking_worker.stats().children_replaced
    assert callable(work)
    job = blocking_worker.submit_blocking(work, str(marker), timeout_s=2.0)
    pid = read_pid(marker)
    with pytest.raises(TimeoutExceededError):
        job.result(20)
    wait_until(lambda: gone(pid), 10)
    assert blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30) != pid
    assert blocking_worker.stats().children_replaced == before + 1


def test_a_killed_child_never_takes_the_next_job() -> None:
    with AsyncWorker("killing", max_children=1) as worker:
        for number in range(6):
            overrun = worker.submit_blocking(spin, os.devnull, timeout_s=0.3)
            following = worker.submit_blocking(square, number, timeout_s=30)
            with pytest.raises(TimeoutExceededError):
                overrun.result(20)
            assert following.result(30) == number**2


def test_cancelling_blocking_work_kills_it(blocking_worker: AsyncWorker, tmp_path: Path) -> None:
    job = blocking_worker.submit_blocking(spin, str(tmp_path / "pid"), timeout_s=60)
    pid = read_pid(tmp_path / "pid")
    job.cancel()
    with pytest.raises(OperationCancelledError):
        job.result(20)
    wait_until(lambda: gone(pid), 10)


def test_a_child_that_dies_is_told_and_replaced(blocking_worker: AsyncWorker) -> None:
    with pytest.raises(WorkerCrashedError, match="exit status -9"):
        blocking_worker.submit_blocking(die, timeout_s=30).result(30)
    assert blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30) > 0
    assert_adds_up(blocking_worker.stats())


def test_an_idle_child_that_dies_costs_no_job(blocking_worker: AsyncWorker) -> None:
    pid = blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), 10)
    assert blocking_worker.submit_blocking(os.getpid, timeout_s=30).result(30) != pid


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from esper_core.worker import AsyncWorker\n"
        "from support.worker_jobs import spin\n"
        "if __name__ == '__main__':\n"
        "    AsyncWorker().submit_blocking(spin, sys.argv[1], timeout_s=600).result(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path / "pid")], env=environment)
    try:
        pid = read_pid(tmp_path / "pid")
    finally:
        parent.kill()
        parent.wait(10)
    wait_until(lambda: gone(pid), 10)
