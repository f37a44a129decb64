"""What a shutdown owes: a worker's loop closes only when nothing is left on it that could still end."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from esper_core.worker import AsyncWorker
from support.waiting import wait_until

pytestmark = pytest.mark.req("COR-2")


def test_what_a_blocked_loop_left_undone_ends_before_the_loop_does(caplog: pytest.LogCaptureFixture) -> None:
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
    # asyncio complains about a task that outlived its loop when it is collected.
    del worker
    gc.collect()
    assert cleaned.is_set()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_a_shutdown_shorter_than_the_grace_still_lets_a_slow_leaver_end(caplog: pytest.LogCaptureFixture) -> None:
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
    gc.collect()
    assert cleaned.is_set()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
