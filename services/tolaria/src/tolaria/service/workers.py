"""Worker processes: started in a session of their own, recognised after a restart of the service, ended when asked."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import psutil

from esper_core.errors import StorageError, WorkerCrashedError
from esper_core.stack import ProcessIdentity
from tolaria.rundir import RunDirectory, WorkerMark
from tolaria.service.launches import LaunchRecord

_SAME_START_S: Final = 2.0


@dataclass(slots=True)
class WorkerProcess:
    """A living or dead worker; the handle is there when it is our own child, which has to be reaped."""

    identity: ProcessIdentity
    handle: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """Say whether it lives; reaps it when it does not."""
        if self.handle is not None:
            return self.handle.poll() is None
        return self.identity.is_alive()

    def send(self, which: signal.Signals) -> None:
        """Send a signal; a process that is gone does not mind."""
        if self.is_alive():
            self.identity.send(which)

    @property
    def last_words(self) -> str:
        """How it ended, for a sentence."""
        status = self.handle.poll() if self.handle is not None else None
        if status is None:
            return "it is gone"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


class Launcher(Protocol):
    """Starts workers."""

    def __call__(self, directory: RunDirectory) -> WorkerProcess:
        """Start the worker of a run."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerLauncher:
    """Starts `python -m tolaria.worker`.

    Parameters
    ----------
    own_address : callable
        Returns where workers reach this service; known once it listens.
    environment : Mapping[str, str]
        What they inherit.
    """

    own_address: Callable[[], str]
    environment: Mapping[str, str]

    def __call__(self, directory: RunDirectory) -> WorkerProcess:
        """Start the worker of a run in a session of its own, so that it outlives this service.

        Raises
        ------
        StorageError
            If its log cannot be opened.
        WorkerCrashedError
            If the system refuses to start it.
        """
        command = [sys.executable, "-m", "tolaria.worker", "--run-dir", str(directory.path)]
        environment = {**self.environment, "ESPER_TOLARIA_ADDRESS": self.own_address()}
        try:
            with directory.log_path.open("ab") as log:
                handle = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise _refused(error, directory) from error
        identity = ProcessIdentity.of(handle.pid) or ProcessIdentity(handle.pid, 0)
        return WorkerProcess(identity, handle)


def find_living(directory: RunDirectory, launch: LaunchRecord) -> WorkerProcess | None:
    """Return the worker of a run if one lives: the one that we started, or the one that left its mark."""
    if launch.process is not None and launch.process.is_alive():
        return WorkerProcess(launch.process)
    mark = directory.read_mark()
    identity = _marked(mark) if mark is not None else None
    return WorkerProcess(identity) if identity is not None else None


def worker_of(pid: int) -> WorkerProcess | None:
    """Return a living process by its id alone, for one that has just proved who it is."""
    identity = ProcessIdentity.of(pid)
    return WorkerProcess(identity) if identity is not None else None


def _marked(mark: WorkerMark) -> ProcessIdentity | None:
    """Return the marked process, unless its id belongs to another one by now."""
    identity = ProcessIdentity.of(mark.pid)
    try:
        began_s = psutil.Process(mark.pid).create_time()
    except psutil.NoSuchProcess:
        return None
    return identity if abs(began_s - mark.started_at_s) < _SAME_START_S else None


def _refused(error: OSError, directory: RunDirectory) -> StorageError | WorkerCrashedError:
    if error.filename == str(directory.log_path):
        return StorageError.from_os_error(error, directory.log_path, "open the log")
    return WorkerCrashedError(f"The worker could not be started: {error.strerror or error}. Free memory and try again.")
