"""Writing a journal: append, make durable together with others, repair a torn tail, rewrite in one stroke."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import StateConflictError, StorageError, ValidationError
from esper_core.files import fsync_directory
from esper_core.journal.format import MAX_PAYLOAD_BYTES, Record, Span, encode
from esper_core.journal.reader import read_journal
from esper_core.logs import get_logger

_log = get_logger("journal")

SyncPolicy = Literal["always", "interval", "manual"]


@dataclass(frozen=True, slots=True)
class RewriteReport:
    """What a rewrite kept and left behind."""

    records_before: int
    records_after: int
    damaged_bytes_dropped: int


class JournalWriter:
    """The only writer of a journal file; readers may read while it writes. Safe across threads.

    With policy `always`, `append` returns when the record is on disk; appends of several threads share one fsync. With
    `interval`, an append makes durable what is older than `interval_s`. With `manual`, only `sync` and `close` do.

    Parameters
    ----------
    path : Path
        The journal; made if missing. Its folder must exist.
    sync : {"always", "interval", "manual"}
        When appended records become durable.
    interval_s : float
        For policy `interval`.
    clock : Clock
        Source of time.

    Raises
    ------
    StateConflictError
        If another writer has the journal open.
    StorageError
        If it cannot be opened.
    """

    def __init__(
        self, path: Path, *, sync: SyncPolicy = "always", interval_s: float = 1.0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._path = path
        self._policy: SyncPolicy = sync
        self._interval_s = interval_s
        self._clock = clock
        self._write_lock = Lock()
        self._sync_lock = Lock()
        self._descriptor = _open_locked(path)
        self.repaired: Span | None = self._cut_torn_tail()
        """The torn tail that was cut off at opening, if there was one."""
        self._end = self._synced = os.fstat(self._descriptor).st_size
        self._synced_at = clock.monotonic()

    @property
    def path(self) -> Path:
        """The journal file."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._end

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that were appended and are not yet known to be on disk."""
        return self._end - self._synced

    def append(self, payload: bytes) -> Record:
        """Append a record; durable on return under policy `always`.

        Raises
        ------
        ValidationError
            If the payload is too large.
        StorageError
            If writing fails; the file is as it was before.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValidationError(
                f"A journal record of {len(payload)} bytes is too large.",
                field="payload",
                allowed=f"at most {MAX_PAYLOAD_BYTES} bytes",
            )
        with self._write_lock:
            record = Record(self._end, payload)
            self._write(encode(payload))
            self._end = record.end
        self._sync_by_policy(record.end)
        return record

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises
        ------
        StorageError
            If the disk refuses; then nothing since the last successful sync may be taken for durable.
        """
        self._sync_up_to(self._end)

    def rewrite(self, select: Callable[[Sequence[Record]], Iterable[bytes]]) -> RewriteReport:
        """Replace the content by the payloads that `select` returns, atomically; damaged stretches go away.

        Offsets change; followers have to start anew.

        Raises
        ------
        StorageError
            If writing fails; the old journal stays in use.
        """
        with self._sync_lock, self._write_lock:
            before = read_journal(self._path)
            kept = [encode(payload) for payload in select(before.records)]
            self._replace(b"".join(kept))
            return RewriteReport(len(before.records), len(kept), before.damaged_bytes)

    def retain_last(self, count: int) -> RewriteReport:
        """Keep the newest `count` records."""
        if count < 0:
            raise ValueError("count must not be negative")
        return self.rewrite(lambda records: [record.payload for record in records[max(0, len(records) - count) :]])

    def close(self) -> None:
        """Make everything durable and let go of the file; closing twice is harmless."""
        if self._descriptor >= 0:
            try:
                self.sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_torn_tail(self) -> Span | None:
        tail = read_journal(self._path).tail
        if tail is not None:
            os.ftruncate(self._descriptor, tail.offset)
            os.fsync(self._descriptor)
            _log.warning("journal_tail_cut", path=str(self._path), offset=tail.offset, length_bytes=tail.length)
        return tail

    def _write(self, data: bytes) -> None:
        if self._descriptor < 0:
            raise StateConflictError(f"The journal {self._path} is closed.")
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise StorageError.from_os_error(error, self._path, "append to the journal") from error

    def _sync_by_policy(self, end: int) -> None:
        overdue = self._clock.monotonic() - self._synced_at >= self._interval_s
        if self._policy == "always" or (self._policy == "interval" and overdue):
            self._sync_up_to(end)

    def _sync_up_to(self, end: int) -> None:
        with self._sync_lock:
            if self._synced >= end or self._descriptor < 0:
                return
            target = self._end
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise StorageError.from_os_error(error, self._path, "sync the journal") from error
            self._synced = target
            self._synced_at = self._clock.monotonic()

    def _replace(self, data: bytes) -> None:
        temporary = self._path.with_name(f".{self._path.name}.rewrite")
        try:
            temporary.unlink(missing_ok=True)
            descriptor = _open_locked(temporary)
            _fill(descriptor, data)
            os.replace(temporary, self._path)
            fsync_directory(self._path.parent)
        except OSError as error:
            raise StorageError.from_os_error(error, self._path, "rewrite the journal") from error
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._end = self._synced = len(data)


def _fill(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    except OSError:
        os.close(descriptor)
        raise


def _open_locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError.from_os_error(error, path, "open the journal") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StateConflictError(f"The journal {path} is open in another process. Stop that process first.") from error
    return descriptor
