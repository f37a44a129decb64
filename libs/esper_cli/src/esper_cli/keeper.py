"""The keeper of a local stack: the one process that keeps Weatherlight alive, and sweeps up at the end.

`esper up` starts it; it holds the lock of the state folder for as long as the stack is up. Everything else is kept
alive by Weatherlight.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from esper_core.errors import EsperError, to_exit_code
from esper_core.files import FileLock, atomic_write_json, ensure_directory
from esper_core.ids import new_ulid
from esper_core.logs import configure_logging, get_logger
from esper_core.stack import ProcessIdentity, StackPaths, StackRecord, members, service_environment, with_ports

WEATHERLIGHT: Final = "weatherlight"
POLL_S: Final = 0.1
RESTART_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0
STOP_WITHIN_S: Final = 60.0


class Keeper:
    """Keeps Weatherlight alive until told to stop.

    Parameters
    ----------
    paths : StackPaths
        The state folder.
    """

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths
        self._stop = threading.Event()
        self._log = get_logger("keeper")
        self._handle: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Bring the stack up, keep it, and take it down when asked to.

        Raises
        ------
        StateFolderInUseError
            If another keeper holds the state folder.
        """
        ensure_directory(self._paths.root)
        with FileLock(self._paths.lock):
            self._paths.prepare()
            record = prepare_record(self._paths)
            atomic_write_json(self._paths.keeper, asdict(ProcessIdentity.own()))
            try:
                self._keep()
            finally:
                self._take_down(record.stack_id)
                self._paths.keeper.unlink(missing_ok=True)

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask for the end; may be a signal handler."""
        self._stop.set()

    def _keep(self) -> None:
        wait, started = RESTART_WAIT_S, time.monotonic()
        self._start()
        while not self._stop.wait(POLL_S):
            if self._process() is not None:
                continue
            wait = RESTART_WAIT_S if time.monotonic() - started > STOP_WITHIN_S else min(wait * 2, LONGEST_WAIT_S)
            self._log.warning("weatherlight_died", restart_in_s=wait)
            if self._stop.wait(wait):
                return
            self._start()
            started = time.monotonic()

    def _start(self) -> None:
        record = StackRecord.load(self._paths.record)
        if self._process() is not None:
            self._log.info("weatherlight_adopted")
            return
        environment = service_environment(WEATHERLIGHT, record, self._paths, os.environ)
        folder = ensure_directory(self._paths.data(WEATHERLIGHT))
        with self._paths.log(WEATHERLIGHT).open("ab") as log:
            self._handle = subprocess.Popen(
                [sys.executable, "-m", WEATHERLIGHT],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _process(self) -> ProcessIdentity | None:
        if self._handle is not None:
            return ProcessIdentity.of(self._handle.pid) if self._handle.poll() is None else None
        process = StackRecord.load(self._paths.record).services[WEATHERLIGHT].process
        return process if process is not None and process.is_alive() else None

    def _take_down(self, stack_id: str) -> None:
        process = self._process()
        if process is not None:
            process.send(signal.SIGTERM)
            wait_until_gone(lambda: [process] if self._process() == process else [], STOP_WITHIN_S)
        sweep(stack_id)


def prepare_record(paths: StackPaths) -> StackRecord:
    """Load or make the record of a stack, give every service a port, and save it."""
    if paths.record.exists():
        record = StackRecord.load(paths.record)
    else:
        record = StackRecord(new_ulid(), datetime.now(UTC).isoformat())
    record = with_ports(record)
    record.save(paths.record)
    return record


def sweep(stack_id: str) -> int:
    """End whatever still runs on behalf of a stack; return how many processes that were."""
    left = _others(stack_id)
    for process in left:
        process.send(signal.SIGTERM)
    wait_until_gone(lambda: _others(stack_id), 10.0)
    for process in _others(stack_id):
        process.send(signal.SIGKILL)
    wait_until_gone(lambda: _others(stack_id), 5.0)
    return len(left)


def wait_until_gone(left: Callable[[], list[ProcessIdentity]], within_s: float) -> bool:
    """Wait until nothing is left; return whether that came true in time."""
    deadline = time.monotonic() + within_s
    while left():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _others(stack_id: str) -> list[ProcessIdentity]:
    return [process for process in members(stack_id) if process.pid not in (os.getpid(), os.getppid())]


def main() -> int:
    """Run a keeper until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Keep a local stack up. Used by `esper up`.")
    parser.add_argument("--state-dir", type=Path, required=True, help="state folder of the stack")
    paths = StackPaths(parser.parse_args().state_dir.absolute())
    configure_logging("keeper")
    keeper = Keeper(paths)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, keeper.stop)
    try:
        keeper.run()
    except EsperError as error:
        print(f"{error.message} ({error.code})", file=sys.stderr)
        return to_exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
