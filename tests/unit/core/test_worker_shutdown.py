"""What is left when a worker is shut down or its caller goes: nothing that still could end, and no complaint."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable

import pytest

from esper_core.errors import OperationCancelledError, StateConflictError
from esper_core.worker import AsyncWorker
from support.waiting import wait_until
from support.worker_jobs import double, forever

pytestmark = pytest.mark.req("COR-2")


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What asyncio says about tasks and futures that this test left behind; it says so when they are collected."""
    gc.collect()
    caplog.clear()

    def heard() -> list[str]:
        gc.collect()
        return [record.getMessage() for record in caplog.records if record.name == "asyncio"]

    return heard


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


def test_what_a_blocked_loop_left_undone_ends_before_the_loop_does(complaints: Callable[[], list[str]]) -> None:
    started, release, cleaned = threading.Event(), threading.Event(), threading.Event()

    async def leaves_slowly() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            cleaned.set()

    async def blocks() -> None:
        release.wait(30)

    worker = AsyncWorker("given-up")
    worker.submit(leaves_slowly, timeout_s=30)
    assert started.wait(10)
    worker.submit(blocks, timeout_s=30)
    assert not worker.shutdown(0.2).clean
    release.set()
    wait_until(lambda: all(thread.name != "given-up" for thread in threading.enumerate()), 10)
    del worker
    assert cleaned.is_set()
    assert complaints() == []


def test_a_shutdown_shorter_than_the_grace_still_lets_a_slow_leaver_end(complaints: Callable[[], list[str]]) -> None:
    started, release, cleaned = threading.Event(), threading.Event(), threading.Event()

    async def leaves_late() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(release.wait, 30)
            cleaned.set()

    worker = AsyncWorker("impatient", cancel_grace_s=20)
    worker.submit(leaves_late, timeout_s=30)
    assert started.wait(10)
    assert not worker.shutdown(0.05).clean
    release.set()
    wait_until(lambda: all(thread.name != "impatient" for thread in threading.enumerate()), 10)
    del worker
    assert cleaned.is_set()
    assert complaints() == []


async def test_a_caller_that_stops_waiting_leaves_no_error_that_nobody_looks_at(
    complaints: Callable[[], list[str]],
) -> None:
    started, cleaned = threading.Event(), threading.Event()
    worker = AsyncWorker()

    async def call() -> None:
        await worker.submit(forever, started, cleaned, timeout_s=30)

    caller = asyncio.create_task(call())
    await asyncio.to_thread(started.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await worker.aclose()).clean and cleaned.is_set()
    # The job's outcome comes to this loop a turn later.
    await asyncio.sleep(0)
    del caller
    assert complaints() == []
