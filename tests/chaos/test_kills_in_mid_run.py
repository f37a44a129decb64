"""Whatever is killed while a network grows, the run completes, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import to_exit_code
from esper_core.stack import STORE, ProcessIdentity, StackRecord, members
from support.local_stack import LocalStack
from support.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SERVICES = ("oona", "urza", "urabrask", "kasmina", "tamiyo", "simic", "nissa", "tolaria", "weatherlight", STORE)
BUDGET = "12e9"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    local = LocalStack(tmp_path_factory.mktemp("stack"))
    local.up()
    yield local
    local.down()


def processes(stack: LocalStack) -> list[ProcessIdentity]:
    """Return what runs on behalf of a stack that may be neither up nor down."""
    return members(StackRecord.load(stack.paths.record).stack_id) if stack.paths.record.exists() else []


def kill_worker(stack: LocalStack, run_id: str) -> None:
    """End the worker of a run as a crash would; 0, which a run without one tells, would mean our own process group."""
    pid = stack.runs.status(run_id).worker_pid
    assert pid > 0, f"{run_id} has no worker any more"
    os.kill(pid, signal.SIGKILL)


@pytest.mark.req("WEA-5")
def test_a_run_that_loses_every_service_once_completes(stack: LocalStack) -> None:
    following = stack.begin("run", "submit", "letter", "--flops", BUDGET, "--follow", "--json")
    wait_until(lambda: bool(stack.esper_json("run", "list")["runs"]), 60, what="the run")
    run_id = stack.esper_json("run", "list")["runs"][0]["run_id"]
    wait_until(lambda: stack.runs.status(run_id).progress.step > 20, 60, what="the run under way")
    for service in SERVICES:
        stack.kill(service)
    stdout, stderr = following.communicate(timeout=400)
    assert following.returncode == 0, stderr + stack.logs()
    told = json.loads(stdout)
    assert told["state"] == "COMPLETED"
    assert told["resumes"] == 0
    wait_until(stack.healthy, 120, what="every service serving again")
    sequences = [event.sequence for event in stack.runs.events(run_id)]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_worker_that_is_killed_goes_on_from_its_checkpoint(stack: LocalStack) -> None:
    run_id = stack.esper_json("run", "submit", "letter", "--policy", "none", "--flops", "20e9")["run_id"]
    wait_until(lambda: bool(stack.esper_json("run", "checkpoints", run_id).get("checkpoints")), 90, what="a checkpoint")
    kill_worker(stack, run_id)
    status = stack.runs.wait(run_id)
    assert status.state == leyline.RUN_STATE_COMPLETED
    assert status.result.resumes == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["as soon as it has a record", "once it is healthy"])
def test_nothing_is_left_of_a_stack_that_is_stopped(how: signal.Signals, when: str, tmp_path: Path) -> None:
    local = LocalStack(tmp_path / "state")
    with local.begin("up") as up:
        wait_until(lambda: bool(processes(local)), 30, what="its first process")
        if when == "once it is healthy":
            wait_until(local.healthy, 120, what="the second stack")
        try:
            up.send_signal(how)
            up.communicate(timeout=60)
            assert processes(local) == []
        finally:
            up.kill()
            local.down()


def test_nothing_is_left_of_a_demo_that_is_interrupted(tmp_path: Path) -> None:
    local = LocalStack(tmp_path / "out" / "state")
    command = [sys.executable, "-m", "esper_cli", "demo", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as demo:
        try:
            workers = local.paths.data("tolaria")
            wait_until(lambda: bool(list(workers.glob("runs/*/worker.json"))), 120, what="its first worker")
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == to_exit_code(KeyboardInterrupt())
            assert processes(local) == []
        finally:
            demo.kill()
            local.down()
