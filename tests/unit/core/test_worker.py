"""The shared worker's coroutines: what overruns is stopped, what is cancelled is gone, and the counters add up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from esper_core.errors import (
    NotFoundError,
    OperationCancelledError,
    ResourceExhaustedError,
    StateConflictError,
    TimeoutExceededError,
)
from esper_core.worker import AsyncWorker
from support.worker_jobs import assert_adds_up, double, forever

pytestmark = pytest.mark.req("COR-2")


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
