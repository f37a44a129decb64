"""The runs that Tolaria knows: one folder each, and a durable note of which request asked for which run.

A run's status.json has one writer at a time: its worker while one lives, this module while none does. The worker's lock
decides which of the two it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import AlreadyExistsError, NotFoundError
from esper_core.files import FileLock, atomic_write_json, ensure_directory, read_json
from esper_core.ids import new_run_id, parse_run_id
from tolaria.reporting.events import EventLog
from tolaria.rundir import RunDirectory, RunRequest

ENDED: Final = frozenset({leyline.RUN_STATE_HALTED, leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_FAILED})
RESUMABLE: Final = frozenset({leyline.RUN_STATE_PAUSED, leyline.RUN_STATE_HALTED})
_NAMED: Final = 5


class RunStore:
    """Runs on disk.

    Parameters
    ----------
    folder : Path
        The service's data folder.
    clock : Clock
        Source of time.
    """

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._runs = ensure_directory(folder.resolve() / "runs")
        self._requests = ensure_directory(folder.resolve() / "requests")
        self._clock = clock

    def reserved(self, request_id: str, spec: leyline.RunSpec) -> str | None:
        """Return the run that a request was answered with, or None.

        Raises
        ------
        AlreadyExistsError
            If the id was used for another specification.
        """
        path = self._request_path(request_id)
        if not path.exists():
            return None
        known: dict[str, Any] = read_json(path)
        if known["spec_digest"] != spec_digest(spec):
            raise AlreadyExistsError(
                f"Request {request_id!r} asked for another run, {known['training_run_id']}. Use a new request_id.",
                details={"field": "request_id", "training_run_id": known["training_run_id"]},
            )
        run_id: str = known["training_run_id"]
        # A note without a run is what a crash between the two leaves behind; the request is then answered anew.
        return run_id if (self._runs / run_id / "spec.json").exists() else None

    def create(self, request_id: str, asked: leyline.RunSpec, spec: leyline.RunSpec) -> str:
        """Make a run durable and return its id.

        The note of the request comes first: a crash between the two leaves a note without a run, which nobody sees and
        which a repeated request replaces.

        Parameters
        ----------
        request_id : str
            The request, for `reserved`.
        asked : RunSpec
            The specification as it came.
        spec : RunSpec
            The same with the task's defaults filled in.
        """
        run_id = new_run_id(self._clock)
        note = {"request_id": request_id, "training_run_id": run_id, "spec_digest": spec_digest(asked)}
        atomic_write_json(self._request_path(request_id), note)
        self._directory(run_id).write_request(RunRequest(run_id, spec, self._clock.wall()))
        return run_id

    def ids(self) -> list[str]:
        """Return the ids of all runs, newest first."""
        return sorted((path.parent.name for path in self._runs.glob("*/spec.json")), reverse=True)

    def directory(self, run_id: str) -> RunDirectory:
        """Return the folder of a run.

        Raises
        ------
        ValidationError
            If the id is malformed.
        NotFoundError
            If there is no such run; the message names the newest ones.
        """
        directory = self._directory(parse_run_id(run_id))
        if not (directory.path / "spec.json").exists():
            newest = ", ".join(self.ids()[:_NAMED]) or "none yet"
            raise NotFoundError(
                f"There is no run {run_id}. The newest runs: {newest}.",
                details={"field": "training_run_id", "training_run_id": run_id},
            )
        return directory

    def status(self, run_id: str) -> leyline.RunStatus:
        """Return what was last written about a run; PENDING where nothing was."""
        return status_in(self.directory(run_id))

    def retell(
        self, run_id: str, state: leyline.RunState.ValueType, reason: str, error_code: str = ""
    ) -> leyline.RunStatus:
        """Change the state of a run that has no worker, as an event and in status.json.

        Raises
        ------
        StateFolderInUseError
            If a worker has the run after all; its process id is in the details.
        """
        directory = self.directory(run_id)
        with FileLock(directory.lock_path):
            status = status_in(directory)
            change = leyline.RunStateChange(from_state=status.state, to_state=state, reason=reason)
            status.state, status.reason, status.error_code, status.worker_pid = state, reason, error_code, 0
            status.ClearField("ended_at")
            if state in ENDED:
                status.ended_at.CopyFrom(to_timestamp(self._clock.wall()))
            log = EventLog(directory.events_path, run_id, clock=self._clock)
            try:
                log.append(change, status.progress.step)
            finally:
                log.close()
            directory.write_status(status)
        return status

    def _directory(self, run_id: str) -> RunDirectory:
        return RunDirectory(self._runs / run_id)

    def _request_path(self, request_id: str) -> Path:
        return self._requests / f"{hashlib.sha256(request_id.encode()).hexdigest()}.json"


def status_in(directory: RunDirectory) -> leyline.RunStatus:
    """Return the status that a run's folder tells; PENDING where no worker has written one."""
    request = directory.read_request()
    status = directory.read_status()
    if status is not None:
        return status
    return leyline.RunStatus(
        training_run_id=request.run_id,
        spec=request.spec,
        state=leyline.RUN_STATE_PENDING,
        reason="Accepted.",
        submitted_at=to_timestamp(request.submitted_at),
    )


def spec_digest(spec: leyline.RunSpec) -> str:
    """Return a SHA-256 by which two specifications are told apart."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()


def state_word(state: int) -> str:
    """Return the name of a run state without its prefix, for sentences and labels."""
    return leyline.RunState.Name(leyline.RunState.ValueType(state)).removeprefix("RUN_STATE_")
