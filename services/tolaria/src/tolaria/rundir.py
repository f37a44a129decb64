"""The folder of one run: what the service writes for its worker, and what the worker leaves for the service.

- spec.json: the request: run id, time of submission, RunSpec as proto JSON (written once, by the service)
- events.journal: RunEvents, sequence rising from 1 (the worker is the only writer)
- status.json: RunStatus as proto JSON, replaced atomically
- worker.json: process id, its start time, and the number of this start
- checkpoints/: one folder per checkpoint
- worker.log: what the worker logs
- emergencies.ring, deadlines.ring: shared memory between service and worker on one host
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from esper_core import leyline
from esper_core.clocks import from_timestamp, to_timestamp
from esper_core.errors import IntegrityError
from esper_core.files import atomic_write_json, ensure_directory, read_json
from esper_core.ids import parse_run_id


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What was asked for, and when."""

    run_id: str
    spec: leyline.RunSpec
    submitted_at: datetime


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """Which process works on a run; pid and start time together name one process for good.

    Attributes
    ----------
    attempt : int
        Number of this start of the run, from 1.
    resumes : int
        How many of the starts took the run up after a crash.
    """

    pid: int
    started_at_s: float
    attempt: int
    resumes: int = 0


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths and small files of one run.

    Parameters
    ----------
    path : Path
        The folder.
    """

    path: Path

    @property
    def events_path(self) -> Path:
        """Journal of run events."""
        return self.path / "events.journal"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def emergencies_path(self) -> Path:
        """Ring in shared memory through which the service tells the worker of emergencies."""
        return self.path / "emergencies.ring"

    @property
    def deadlines_path(self) -> Path:
        """Ring in shared memory through which the worker tells the deadline of its rollback."""
        return self.path / "deadlines.ring"

    @property
    def log_path(self) -> Path:
        """Log of the worker."""
        return self.path / "worker.log"

    @property
    def lock_path(self) -> Path:
        """Lock that one worker holds at a time."""
        return self.path / "worker.lock"

    def write_request(self, request: RunRequest) -> None:
        """Write spec.json; creates the folder.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        ensure_directory(self.path)
        document = {
            "training_run_id": parse_run_id(request.run_id),
            "submitted_at": to_timestamp(request.submitted_at).ToJsonString(),
            "spec": to_json(request.spec),
        }
        atomic_write_json(self.path / "spec.json", document)

    def read_request(self) -> RunRequest:
        """Read spec.json.

        Raises
        ------
        IntegrityError
            If it isn't what `write_request` writes.
        StorageError
            If it cannot be read.
        """
        path = self.path / "spec.json"
        document = read_json(path)
        try:
            stamp = Timestamp()
            stamp.FromJsonString(document["submitted_at"])
            spec = ParseDict(document["spec"], leyline.RunSpec())
            return RunRequest(parse_run_id(document["training_run_id"]), spec, from_timestamp(stamp))
        except (KeyError, TypeError, ValueError, ParseError) as error:
            raise IntegrityError(f"{path} is no run request ({error}). Submit the run again.") from error

    def write_status(self, status: leyline.RunStatus) -> None:
        """Replace status.json."""
        atomic_write_json(self.path / "status.json", to_json(status))

    def read_status(self) -> leyline.RunStatus | None:
        """Read status.json, or None where no worker has written one yet.

        Raises
        ------
        IntegrityError
            If it isn't a RunStatus.
        """
        path = self.path / "status.json"
        if not path.exists():
            return None
        try:
            return ParseDict(read_json(path), leyline.RunStatus(), ignore_unknown_fields=True)
        except ParseError as error:
            raise IntegrityError(f"{path} is no run status ({error}). Delete it; the worker writes it anew.") from error

    def write_mark(self, mark: WorkerMark) -> None:
        """Replace worker.json."""
        atomic_write_json(self.path / "worker.json", asdict(mark))

    def read_mark(self) -> WorkerMark | None:
        """Read worker.json, or None where no worker has started yet.

        Raises
        ------
        IntegrityError
            If it isn't what `write_mark` writes.
        """
        path = self.path / "worker.json"
        if not path.exists():
            return None
        document = read_json(path)
        try:
            return WorkerMark(
                pid=int(document["pid"]),
                started_at_s=float(document["started_at_s"]),
                attempt=int(document["attempt"]),
                resumes=int(document["resumes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path} names no worker ({error}). Delete it and start the run again.") from error


def to_json(message: Message) -> Mapping[str, Any]:
    """Return a message as proto JSON with its field names as written in the proto."""
    document: Mapping[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return document
