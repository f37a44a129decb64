"""Reading a journal: every good record, and a report of every byte that was none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper_core.errors import StorageError
from esper_core.journal.format import HEADER, MAX_PAYLOAD_BYTES, Parsed, Record, Span, parse

CHUNK_BYTES: Final = 2 * (HEADER.size + MAX_PAYLOAD_BYTES)


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal holds.

    Attributes
    ----------
    records : tuple of Record
        Good records in order.
    damaged : tuple of Span
        Stretches between good records that hold none.
    tail : Span or None
        Bytes behind the last good record: torn by a crash, or still being written by a living writer.
    next_offset : int
        Where to read on for records that are appended later.
    """

    records: tuple[Record, ...]
    damaged: tuple[Span, ...]
    tail: Span | None
    next_offset: int

    @property
    def payloads(self) -> list[bytes]:
        """The payloads alone."""
        return [record.payload for record in self.records]

    @property
    def damaged_bytes(self) -> int:
        """Bytes that are lost, the tail included."""
        return sum(span.length for span in self.damaged) + (self.tail.length if self.tail else 0)

    def describe_damage(self) -> str:
        """Return a sentence about what was skipped; empty when nothing was."""
        spans = [*self.damaged, *([self.tail] if self.tail else [])]
        if not spans:
            return ""
        places = ", ".join(f"{span.length} bytes at offset {span.offset}" for span in spans)
        return f"Skipped {places}; {len(self.records)} records are good."


def read_journal(path: Path, offset: int = 0) -> JournalContents:
    """Read everything from an offset on; a missing file is an empty journal.

    To follow a journal, pass the `next_offset` of the last call.

    Raises
    ------
    StorageError
        If the file cannot be read.
    """
    records: list[Record] = []
    damaged: list[Span] = []
    end = consumed = offset
    for parsed, chunk_end in _chunks(path, offset):
        end = chunk_end
        records += parsed.records
        _join(damaged, parsed.damaged)
        consumed = parsed.consumed
    tail = Span(consumed, end - consumed) if end > consumed else None
    return JournalContents(tuple(records), tuple(damaged), tail, consumed)


def iterate(path: Path, offset: int = 0) -> Iterator[Record]:
    """Yield good records one chunk of the file at a time, for journals too large to hold.

    Raises
    ------
    StorageError
        If the file cannot be read.
    """
    for parsed, _ in _chunks(path, offset):
        yield from parsed.records


def _chunks(path: Path, offset: int) -> Iterator[tuple[Parsed, int]]:
    """Yield what each chunk held, with the file offset where the chunk ended."""
    try:
        with path.open("rb") as file:
            at_end = False
            while not at_end:
                file.seek(offset)
                buffer = file.read(CHUNK_BYTES)
                at_end = len(buffer) < CHUNK_BYTES
                parsed = parse(buffer, offset, at_end=at_end)
                yield parsed, offset + len(buffer)
                offset = parsed.consumed
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError.from_os_error(error, path, "read the journal") from error


def _join(spans: list[Span], more: list[Span]) -> None:
    """Add stretches, merging one that continues over the edge of a chunk."""
    for span in more:
        if spans and spans[-1].end == span.offset:
            spans[-1] = Span(spans[-1].offset, spans[-1].length + span.length)
        else:
            spans.append(span)
