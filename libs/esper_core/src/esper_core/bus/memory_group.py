"""One consumer group of the in-memory broker, on one stream: cursor, pending, retries."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from esper_core import leyline


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in a stream, or on its way back to one group."""

    entry_id: int
    envelope: leyline.BusEnvelope
    failures: int = 0


@dataclass(slots=True)
class Pending:
    """A delivery that was not answered."""

    entry: Entry
    session: object
    deliveries: int = 1


@dataclass(slots=True)
class Group:
    """A group's place in one stream.

    Attributes
    ----------
    types : frozenset of int
        Message types it wants; empty means all.
    cursor : int
        Index of the next entry of the stream that it has not seen.
    pending : dict
        Delivery id to what was delivered.
    due : list
        Retries that wait for their time: (monotonic seconds, entry).
    again : deque
        Retries whose time has come.
    """

    types: frozenset[int]
    cursor: int = 0
    pending: dict[str, Pending] = field(default_factory=dict)
    due: list[tuple[float, Entry]] = field(default_factory=list)
    again: deque[Entry] = field(default_factory=deque)

    def promote(self, now: float) -> None:
        """Make retries whose time has come deliverable."""
        ready = sorted((item for item in self.due if item[0] <= now), key=lambda item: (item[0], item[1].entry_id))
        self.due = [item for item in self.due if item[0] > now]
        self.again.extend(entry for _, entry in ready)

    def next_new(self, entries: list[Entry]) -> Entry | None:
        """Take the next message that this group wants, retries first."""
        if self.again:
            return self.again.popleft()
        while self.cursor < len(entries):
            entry = entries[self.cursor]
            self.cursor += 1
            if not self.types or entry.envelope.message_type in self.types:
                return entry
        return None

    def lag(self, entries: list[Entry]) -> int:
        """Messages not yet delivered."""
        return len(entries) - self.cursor + len(self.again) + len(self.due)
