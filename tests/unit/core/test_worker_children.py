"""The shared worker's children: what overruns or dies is replaced, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper_core.errors import (
    InternalError,
    NotFoundError,
    OperationCancelledError,
    TimeoutExceededError,
    ValidationError,
    WorkerCrashedError,
)
from esper_core.worker import AsyncWorker
from support.waiting import wait_until
from support.worker_jobs import assert_adds_up, die, refuse, spin, spin_with_a_child_of_its_own, square, unsendable

pytestmark = pytest.mark.req("COR-2")


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
