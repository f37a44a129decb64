"""Bringing a local stack up and down, for the command line and for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from esper_cli.keeper import sweep, wait_until_gone
from esper_cli.stack_client import StackClient
from esper_cli.stopping import StopRequest
from esper_core import leyline
from esper_core.errors import EsperError, InternalError, StateFolderInUseError, TimeoutExceededError, class_of
from esper_core.files import FileLock, ensure_directory, read_json
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2, weatherlight_pb2_grpc
from esper_core.stack import STACK_VARIABLE, ProcessIdentity, StackPaths, StackRecord

POLL_S: Final = 0.2
DOWN_WITHIN_S: Final = 90.0
Progress = Callable[[weatherlight_pb2.SystemStatus], None]


def start_keeper(paths: StackPaths) -> subprocess.Popen[bytes]:
    """Start the keeper of a stack in a session of its own.

    Raises
    ------
    StateFolderInUseError
        If a stack is up in that folder already.
    """
    ensure_directory(paths.root)
    ensure_directory(paths.logs)
    with FileLock(paths.lock):
        pass
    environment = {name: value for name, value in os.environ.items() if name != STACK_VARIABLE}
    with paths.log("keeper").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "esper_cli.keeper", "--state-dir", str(paths.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def wait_until_healthy(
    paths: StackPaths, keeper: subprocess.Popen[bytes], within_s: float, progress: Progress, stop: StopRequest
) -> weatherlight_pb2.SystemStatus:
    """Wait until every service of a stack is healthy and return the system.

    Raises
    ------
    TimeoutExceededError
        If some are not healthy in time; the message names them and their logs.
    EsperError
        If the keeper ended.
    KeyboardInterrupt
        If somebody asked to stop.
    """
    deadline = time.monotonic() + within_s
    status: weatherlight_pb2.SystemStatus | None = None
    while time.monotonic() < deadline:
        stop.check()
        if keeper.poll() is not None:
            raise _keeper_ended(paths)
        status = system(paths)
        if status is not None:
            progress(status)
            if all(service.health == leyline.HEALTH_STATUS_HEALTHY for service in status.services):
                return status
        time.sleep(POLL_S)
    raise TimeoutExceededError(
        f"The stack is not healthy after {within_s:.0f} s: {_ailing(status)}. Look at the logs in {paths.logs}."
    )


def system(paths: StackPaths) -> weatherlight_pb2.SystemStatus | None:
    """Ask Weatherlight how the system is; None while it does not answer."""
    try:
        client = StackClient(paths, StackRecord.load(paths.record))
        with client.channel("weatherlight") as channel:
            stub: Any = weatherlight_pb2_grpc.OrchestratorStub(channel)
            status: weatherlight_pb2.SystemStatus = stub.GetSystem(weatherlight_pb2.GetSystemRequest(), timeout=2.0)
            return status
    except EsperError:
        return None


def take_down(paths: StackPaths) -> bool:
    """Stop everything that belongs to a stack; return whether anything ran.

    Raises
    ------
    InternalError
        If something outlives even that.
    """
    if not paths.record.exists():
        return False
    stack_id = StackRecord.load(paths.record).stack_id
    keeper = keeper_of(paths)
    if keeper is not None:
        keeper.send(signal.SIGTERM)
        wait_until_gone(lambda: [keeper] if keeper.is_alive() else [], DOWN_WITHIN_S)
    swept = sweep(stack_id)
    if StackRecord.load(paths.record).living():
        raise InternalError(f"Processes of the stack in {paths.root} cannot be stopped. `esper status` lists them.")
    return keeper is not None or swept > 0


def keeper_of(paths: StackPaths) -> ProcessIdentity | None:
    """Return the living keeper of a stack, None when there is none; a dead pid file counts as none."""
    if not paths.keeper.exists():
        return None
    keeper = ProcessIdentity(**read_json(paths.keeper))
    return keeper if keeper.is_alive() else None


def _keeper_ended(paths: StackPaths) -> EsperError:
    lines = [line for line in paths.log("keeper").read_text().splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if StateFolderInUseError.code in last:
        return class_of(StateFolderInUseError.code).from_wire(last, {})
    return InternalError(f"The keeper of the stack ended: {last}. Its log is {paths.log('keeper')}.")


def _ailing(status: weatherlight_pb2.SystemStatus | None) -> str:
    if status is None:
        return "weatherlight does not answer"
    healthy = leyline.HEALTH_STATUS_HEALTHY
    return "; ".join(f"{row.name}: {row.reason}" for row in status.services if row.health != healthy)
