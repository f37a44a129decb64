"""A local stack for measurements, and outages of single services that nobody repairs meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from esper_cli.stack_control import keeper_of, take_down
from esper_core.stack import ProcessIdentity, StackPaths, StackRecord, service_environment

UP_WITHIN_S = 120.0


@contextmanager
def local_stack(settings: Mapping[str, str] | None = None) -> Iterator[StackPaths]:
    """Bring up a whole stack in a folder of its own, as `esper up` does, and take it down afterwards.

    Parameters
    ----------
    settings : Mapping, optional
        Environment variables for its services.

    Raises
    ------
    RuntimeError
        If it does not become healthy.
    """
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        paths = StackPaths(Path(folder) / "state")
        try:
            _up(paths, settings or {})
            yield paths
        finally:
            take_down(paths)


def worker_environment(paths: StackPaths) -> dict[str, str]:
    """Return the environment that Tolaria gives to the workers of a stack."""
    return service_environment("tolaria", StackRecord.load(paths.record), paths, os.environ)


@contextmanager
def outage(paths: StackPaths, services: Sequence[str]) -> Iterator[None]:
    """Kill services; keeper and Weatherlight are held still in the block, so that nobody starts them again."""
    record = StackRecord.load(paths.record)
    keeper = keeper_of(paths)
    supervisors = [process for process in (keeper, record.services["weatherlight"].process) if process is not None]
    with ExitStack() as undo:
        for process in supervisors:
            process.send(signal.SIGSTOP)
            undo.callback(process.send, signal.SIGCONT)
        for victim in _processes(record, services):
            victim.send(signal.SIGKILL)
        yield


def _processes(record: StackRecord, services: Sequence[str]) -> Iterator[ProcessIdentity]:
    for name in services:
        process = record.services[name].process
        if process is None:
            raise RuntimeError(f"{name} does not run")
        yield process


def _up(paths: StackPaths, settings: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "esper_cli", "up", "--detach", "--timeout", str(UP_WITHIN_S)]
    done = subprocess.run(
        [*command, "--state-dir", str(paths.root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
    )
    if done.returncode != 0:
        raise RuntimeError(f"The stack did not come up: {done.stderr.strip()}")
