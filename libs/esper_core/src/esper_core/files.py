"""Files that are either the old or the new version, never half of one, and locks that name their holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esper_core.errors import IntegrityError, StateFolderInUseError, StorageError

Json = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


def fsync_directory(folder: Path) -> None:
    """Make renames and creations in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_directory(folder: Path, mode: int = 0o755) -> Path:
    """Create a folder and its parents, or say in one sentence why that failed.

    Raises
    ------
    StorageError
        If the folder cannot be created.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error(error, folder, "create the folder") from error
    return folder


def atomic_write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file's content; after a crash either the old or the new content is there, whole.

    Raises
    ------
    StorageError
        If writing fails; DiskFullError when the disk is full. The old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        _write_durably(temporary, data, mode)
        os.replace(temporary, path)
        fsync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError.from_os_error(error, path, "write") from error


def _write_durably(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def atomic_write_json(path: Path, value: Json, *, mode: int = 0o644) -> None:
    """Replace a file's content by indented JSON with sorted keys."""
    atomic_write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), mode=mode)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    StorageError
        If the file cannot be read.
    IntegrityError
        If it does not hold JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError.from_os_error(error, path, "read") from error
    except ValueError as error:
        raise IntegrityError(f"{path} does not hold JSON ({error}). Restore or delete it.") from error


class FileLock:
    """An exclusive lock that dies with its holder, with the holder's pid inside for people.

    Use as a context manager, or `acquire` and `release`. The lock is taken with flock, so a stale file of a dead
    process never blocks anyone.

    Parameters
    ----------
    path : Path
        The lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting.

        Raises
        ------
        StateFolderInUseError
            If another process holds it; the message names its pid.
        StorageError
            If the file cannot be opened or written; DiskFullError when the disk is full.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError.from_os_error(error, self._path, "open the lock file") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise self._refused(error, holder) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise StorageError.from_os_error(error, self._path, "write the lock file") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; the file stays, because deleting it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _refused(self, error: OSError, holder: str) -> StateFolderInUseError | StorageError:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return StorageError.from_os_error(error, self._path, "lock")
        return StateFolderInUseError(
            f"{self._path.parent} is in use by process {holder}. Stop it first or use another folder.",
            details={"pid": holder, "path": str(self._path.parent)},
        )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
