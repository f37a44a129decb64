"""Messages in shared memory from one process to others on the same host: payload first, then the sequence number.

The file holds a header with the number of the newest record, and slots that are used in turn. A writer that dies in the
middle of a record leaves the ones before it readable. A reader takes a record only if its slot held the wanted number
before and after the copy and the checksum over number and payload fits, so that a torn record is never returned,
whatever order the processor gives to stores.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import google_crc32c

from esper_core.errors import IntegrityError, StateFolderInUseError, StorageError, ValidationError

SLOTS: Final = 64
SLOT_BYTES: Final = 2048
_MAGIC: Final = b"ESPRING1"
_HEADER_BYTES: Final = 64
_HEAD: Final = 1
"""Place of the newest number in the header, in units of eight bytes."""
_FACTS: Final = struct.Struct("=QII")
MAX_PAYLOAD: Final = SLOT_BYTES - _FACTS.size
_ATTEMPTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """What came since a number.

    Attributes
    ----------
    payloads : tuple[bytes, ...]
        Records, oldest first.
    lost : int
        How many were overwritten before they could be read.
    head : int
        Number of the newest record that was looked at.
    """

    payloads: tuple[bytes, ...]
    lost: int
    head: int


class _Mapped:
    """The file in memory; `words` are its aligned numbers, each read and written by one instruction."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self._path = path
        try:
            self.descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._memory = mmap.mmap(self.descriptor, _size(), access=access)
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path} is no ring in shared memory ({error}). Delete it.") from error
        self.bytes = memoryview(self._memory)
        self.words = self.bytes.cast("Q")
        if bytes(self.bytes[: len(_MAGIC)]) != _MAGIC:
            self.close()
            raise IntegrityError(f"{path} is no ring in shared memory. Delete it.")

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self.bytes.release()
        self._memory.close()
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RingWriter(_Mapped):
    """Writes records; there is one writer at a time, and any of its threads may write.

    Parameters
    ----------
    path : Path
        The ring; created where it does not exist.

    Raises
    ------
    StateFolderInUseError
        If another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        create_ring(path)
        super().__init__(path, writable=True)
        self._lock = threading.Lock()
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise StateFolderInUseError(f"Another process writes to {path}. Stop it first.") from error

    def write(self, payload: bytes) -> int:
        """Write a record and return its number.

        Raises
        ------
        ValidationError
            If it is larger than a slot.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValidationError("The record is too large.", field="payload", allowed=f"at most {MAX_PAYLOAD} bytes")
        with self._lock:
            number = self.words[_HEAD] + 1
            at = _place(number)
            self.words[at // 8] = 0
            _FACTS.pack_into(self.bytes, at, 0, len(payload), checksum(number, payload))
            self.bytes[at + _FACTS.size : at + _FACTS.size + len(payload)] = payload
            self.words[at // 8] = number
            self.words[_HEAD] = number
            return number


class RingReader(_Mapped):
    """Reads records of a ring that exists."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, writable=False)

    @property
    def head(self) -> int:
        """Number of the newest record, 0 where there is none; costs less than a microsecond."""
        return self.words[_HEAD]

    def since(self, number: int) -> Reading:
        """Return the records after a number; those that were overwritten meanwhile are counted."""
        head = self.head
        found = [self._copy(wanted) for wanted in range(max(number + 1, head - SLOTS + 1), head + 1)]
        whole = tuple(payload for payload in found if payload is not None)
        return Reading(whole, head - number - len(whole), head)

    def latest(self) -> tuple[int, bytes] | None:
        """Return the newest record and its number, or None where there is none.

        Raises
        ------
        IntegrityError
            If no whole record could be caught: the file is damaged.
        """
        for _ in range(_ATTEMPTS):
            number = self.head
            if number == 0:
                return None
            payload = self._copy(number)
            if payload is not None:
                return number, payload
        raise IntegrityError(f"{self._path} holds no whole record. Delete it while nobody uses it.")

    def _copy(self, number: int) -> bytes | None:
        at = _place(number)
        if self.words[at // 8] != number:
            return None
        _, size, expected = _FACTS.unpack_from(self.bytes, at)
        payload = bytes(self.bytes[at + _FACTS.size : at + _FACTS.size + min(size, MAX_PAYLOAD)])
        unchanged = self.words[at // 8] == number
        return payload if unchanged and checksum(number, payload) == expected else None


def create_ring(path: Path) -> None:
    """Create an empty ring that only its owner may read, unless there is one; whoever comes first creates it whole.

    Raises
    ------
    StorageError
        If it cannot be created.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC.ljust(_size(), b"\0"))
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError.from_os_error(error, path, "create the ring") from error
    finally:
        temporary.unlink(missing_ok=True)


def checksum(number: int, payload: bytes) -> int:
    """Return the CRC32C over a record's number and its payload."""
    return int(google_crc32c.extend(google_crc32c.value(number.to_bytes(8, "little")), payload))


def _place(number: int) -> int:
    return _HEADER_BYTES + (number - 1) % SLOTS * SLOT_BYTES


def _size() -> int:
    return _HEADER_BYTES + SLOTS * SLOT_BYTES
