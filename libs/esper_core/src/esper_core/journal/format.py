"""The record format: `EJR1`, length, CRC32C, payload; and how good records are found among damaged bytes.

Both numbers are 32-bit little-endian; the CRC covers length and payload. A damaged record costs itself only: the parser
looks for the next magic whose length and CRC hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import google_crc32c

MAGIC: Final = b"EJR1"
HEADER: Final = struct.Struct("<4sII")
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Record:
    """One good record; `offset` is where it starts in the file, `end` where the next one does."""

    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        """Offset just behind the record."""
        return self.offset + HEADER.size + len(self.payload)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the file that holds no good record."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset just behind the stretch."""
        return self.offset + self.length


@dataclass(slots=True)
class Parsed:
    """What a buffer held; everything before `consumed` (a file offset) is dealt with."""

    consumed: int
    records: list[Record] = field(default_factory=list)
    damaged: list[Span] = field(default_factory=list)


def encode(payload: bytes) -> bytes:
    """Frame a payload.

    Raises
    ------
    ValueError
        If it is larger than MAX_PAYLOAD_BYTES.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record holds at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
    return HEADER.pack(MAGIC, len(payload), _checksum(payload)) + payload


def parse(buffer: bytes, base: int, *, at_end: bool) -> Parsed:
    """Find all good records in a buffer that starts at file offset `base`.

    Parameters
    ----------
    buffer : bytes
        At least one whole record long, unless the file ends with it.
    base : int
        Offset of the buffer in the file.
    at_end : bool
        Whether the file ends with the buffer. If so, bytes behind the last good record stay unconsumed: a torn tail,
        or a record that is just being written.
    """
    parsed = Parsed(base)
    position = 0
    while (start := buffer.find(MAGIC, position)) >= 0:
        payload = _payload_at(buffer, start)
        if payload is not None:
            _skip_to(parsed, base + start)
            record = Record(base + start, payload)
            parsed.records.append(record)
            parsed.consumed = record.end
            position = record.end - base
        elif not at_end and _reaches_beyond(buffer, start):
            _skip_to(parsed, base + start)
            return parsed
        else:
            position = start + 1
    if not at_end:
        _skip_to(parsed, max(parsed.consumed, base + len(buffer) - len(MAGIC) + 1))
    return parsed


def _payload_at(buffer: bytes, start: int) -> bytes | None:
    if start + HEADER.size > len(buffer):
        return None
    _, length, checksum = HEADER.unpack_from(buffer, start)
    end = start + HEADER.size + length
    if length > MAX_PAYLOAD_BYTES or end > len(buffer):
        return None
    payload = buffer[start + HEADER.size : end]
    return payload if _checksum(payload) == checksum else None


def _reaches_beyond(buffer: bytes, start: int) -> bool:
    if start + HEADER.size > len(buffer):
        return True
    length: int = HEADER.unpack_from(buffer, start)[1]
    return length <= MAX_PAYLOAD_BYTES and start + HEADER.size + length > len(buffer)


def _skip_to(parsed: Parsed, offset: int) -> None:
    if offset > parsed.consumed:
        parsed.damaged.append(Span(parsed.consumed, offset - parsed.consumed))
        parsed.consumed = offset


def _checksum(payload: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(_LENGTH.pack(len(payload))), payload))
