"""Durable checkpoints of one run: written whole or not at all, the last good ones kept, bad ones told and passed over.

Each lies in its own folder `<step>-<reason>`, written by `esper_runtime.snapshot_store`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from esper_core.errors import EsperError, NotFoundError, StorageError
from esper_core.files import fsync_directory
from esper_runtime.snapshot import Snapshot
from esper_runtime.snapshot_store import read_snapshot, write_snapshot

Reason = Literal["interval", "settled", "halt", "final", "rollback"]
_NAME: Final = re.compile(r"(\d{10})-([a-z]+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint as it lies on disk.

    Attributes
    ----------
    path : Path
        Its folder.
    step : int
        Optimizer step.
    reason : str
        Why it was written.
    created_at : datetime
        When, in UTC.
    size_bytes : int
        Size of its files.
    """

    path: Path
    step: int
    reason: str
    created_at: datetime
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BadCheckpoint:
    """A checkpoint that could not be used, and why, in the words of the error."""

    path: Path
    code: str
    problem: str


class CheckpointStore:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Where they lie.
    keep : int
        How many are kept, at least 2.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 2:
            raise ValueError("at least two checkpoints are kept, so that a bad one has one before it")
        self._folder = folder
        self._keep = keep

    def write(self, snapshot: Snapshot, reason: Reason) -> CheckpointRecord:
        """Write a checkpoint, then forget the oldest beyond those that are kept.

        One that was written because the run went back to it makes an end of those after it.

        Raises
        ------
        StorageError
            If it cannot be written; DiskFullError when the disk is full. The older ones are untouched then.
        """
        path = self._free_name(f"{snapshot.step:010d}-{reason}")
        write_snapshot(snapshot, path)
        if reason == "rollback":
            self.forget_after(snapshot.step)
        self._prune()
        return _record(path)

    def records(self) -> list[CheckpointRecord]:
        """Return the checkpoints that are there, newest first; their digests are not looked at."""
        if not self._folder.is_dir():
            return []
        found = [_record(path) for path in self._folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda record: (record.step, record.created_at, record.path.name), reverse=True)

    def latest_good(self, to_step: int | None = None) -> tuple[Snapshot | None, list[BadCheckpoint]]:
        """Read the newest checkpoint whose digests hold, not after `to_step`.

        Returns
        -------
        tuple
            The snapshot, or None where no good one exists, and the bad ones that were passed over.
        """
        bad: list[BadCheckpoint] = []
        for outcome in self._tried(to_step):
            if isinstance(outcome, Snapshot):
                return outcome, bad
            bad.append(outcome)
        return None, bad

    def read(self, name: str) -> Snapshot:
        """Read one checkpoint by the name of its folder.

        Raises
        ------
        NotFoundError
            If there is none of that name.
        SnapshotIntegrityError
            If it is damaged.
        """
        for record in self.records():
            if record.path.name == name:
                return read_snapshot(record.path)
        raise NotFoundError(f"There is no checkpoint {name!r} in {self._folder}.")

    def forget_after(self, step: int) -> None:
        """Take away what lies after a step that the run went back to, so that nothing resumes a course that was left.

        Where nothing lies at or before that step, all is kept: a bad state is better than none.

        Raises
        ------
        StorageError
            If that fails.
        """
        records = self.records()
        left = [record for record in records if record.step > step]
        if len(left) == len(records):
            return
        try:
            # Hidden first, all of them, because deleting takes time in which a crash would leave some to be found.
            hidden = [record.path.rename(self._hidden(record.path)) for record in left]
            fsync_directory(self._folder)
            for path in hidden:
                shutil.rmtree(path)
        except OSError as error:
            raise StorageError.from_os_error(error, self._folder, "take away what lies there") from error

    def _hidden(self, path: Path) -> Path:
        hidden = path.with_name(f".{path.name}.left")
        if hidden.exists():
            shutil.rmtree(hidden)
        return hidden

    def _tried(self, to_step: int | None) -> Iterator[Snapshot | BadCheckpoint]:
        for record in self.records():
            if to_step is not None and record.step > to_step:
                continue
            try:
                yield read_snapshot(record.path)
            except EsperError as error:
                reason = error.details.get("reason", "unreadable")
                yield BadCheckpoint(record.path, error.code, f"{reason}: {error.message}")

    def _free_name(self, name: str) -> Path:
        """Avoid a name that is taken: after a rollback the same step can be reached again."""
        path, number = self._folder / name, 1
        while path.exists():
            number += 1
            path = self._folder / f"{name}-{number}"
        return path

    def _prune(self) -> None:
        for record in self.records()[self._keep :]:
            try:
                shutil.rmtree(record.path)
            except OSError as error:
                raise StorageError.from_os_error(error, record.path, "delete the old checkpoint") from error


def _record(path: Path) -> CheckpointRecord:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is no name of a checkpoint")
    stat = path.stat()
    return CheckpointRecord(
        path=path,
        step=int(match.group(1)),
        reason=match.group(2),
        created_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        size_bytes=sum(file.stat().st_size for file in path.iterdir()),
    )
