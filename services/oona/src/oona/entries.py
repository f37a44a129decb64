"""Entries of streams, as fields and as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from esper_core import leyline

Fields: TypeAlias = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in a stream.

    Attributes
    ----------
    entry_id : str
        Its id in the stream.
    message_type : int
        Value of BusMessageType, readable without parsing the envelope.
    failures : int
        How often handlers of this group have failed on it.
    content : bytes
        The envelope, exactly as it was published.
    """

    entry_id: str
    message_type: int
    failures: int
    content: bytes

    @property
    def envelope(self) -> leyline.BusEnvelope:
        """The envelope."""
        return leyline.BusEnvelope.FromString(self.content)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter; `group` is empty for what was refused at the entrance."""

    entry: Entry
    stream: str
    group: str
    reason: str

    @property
    def failed_at_ms(self) -> int:
        """Wall time, in ms since 1970: entry ids begin with it."""
        return int(self.entry.entry_id.partition("-")[0])


def fields_of(envelope: leyline.BusEnvelope) -> dict[str, str | bytes | int]:
    """Return what a stream keeps of an envelope."""
    return {"e": envelope.SerializeToString(deterministic=True), "t": int(envelope.message_type), "a": 0}


def to_entry(entry_id: bytes, fields: Fields) -> Entry:
    """Read an entry of any stream."""
    return Entry(entry_id.decode(), int(fields[b"t"]), int(fields.get(b"a", b"0")), fields[b"e"])


def to_letter(entry_id: bytes, fields: Fields) -> Letter:
    """Read a dead letter."""
    stream, group, reason = (fields.get(name, b"").decode(errors="replace") for name in (b"s", b"g", b"r"))
    return Letter(to_entry(entry_id, fields), stream, group, reason)
