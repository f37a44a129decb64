"""Ten rounds of 128 jobs of every temper: nothing leaks, nothing is lost, every job ends as it must."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from typing import Any

import psutil
import pytest

from esper_core.errors import EsperError, OperationCancelledError, TimeoutExceededError
from esper_core.worker import AsyncWorker, JobHandle
from support.waiting import wait_until
from support.worker_jobs import spin, square

ROUNDS = 10
JOBS = 128


async def brief(value: int) -> int:
    await asyncio.sleep(0.001)
    return value


async def endless(value: int) -> int:
    await asyncio.Event().wait()
    return value


async def failing(value: int) -> int:
    raise RuntimeError(f"job {value}")


def submit(worker: AsyncWorker, value: int, kind: str) -> JobHandle[Any]:
    if kind == "brief":
        return worker.submit(brief, value, timeout_s=60)
    if kind == "failing":
        return worker.submit(failing, value, timeout_s=60)
    if kind == "square":
        return worker.submit_blocking(square, value, timeout_s=60)
    if kind == "spin":
        return worker.submit_blocking(spin, os.devnull, timeout_s=0.5)
    job = worker.submit(endless, value, timeout_s=0.05 if kind == "overrun" else 60)
    if kind == "cancelled":
        job.cancel()
    return job


def check(job: JobHandle[Any], value: int, kind: str) -> None:
    expected: dict[str, type[Exception]] = {
        "failing": RuntimeError,
        "overrun": TimeoutExceededError,
        "cancelled": OperationCancelledError,
        "spin": TimeoutExceededError,
    }
    if kind in expected:
        with pytest.raises(expected[kind]):
            job.result(120)
    else:
        assert job.result(120) == (value * value if kind == "square" else value)


@pytest.mark.soak
@pytest.mark.req("COR-3")
@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_soak(round_number: int) -> None:
    chance = random.Random(round_number)
    kinds = chance.choices(
        ["brief", "failing", "square", "overrun", "cancelled", "spin"], weights=[60, 20, 20, 14, 13, 1], k=JOBS
    )
    threads_before = threading.active_count()
    children_before = len(psutil.Process().children(recursive=True))
    worker = AsyncWorker(max_concurrency=16, max_children=2)
    worker.warm_children().result(60)
    jobs = [submit(worker, value, kind) for value, kind in enumerate(kinds)]
    for value, (job, kind) in enumerate(zip(jobs, kinds, strict=True)):
        check(job, value, kind)
    stats = worker.stats()
    assert stats.submitted == JOBS + 1 and stats.queued == stats.running == stats.stuck == 0
    assert worker.shutdown(20).clean
    with pytest.raises(EsperError):
        worker.submit(brief, 1, timeout_s=1)
    # One helper of multiprocessing may have come to stay; it serves all later rounds.
    wait_until(lambda: len(psutil.Process().children(recursive=True)) <= children_before + 1, 20)
    wait_until(lambda: threading.active_count() <= threads_before, 20)
