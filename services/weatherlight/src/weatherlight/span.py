"""One segment of the bridge and how far it was worked off, which outlives a restart: nothing is acted on twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from esper_core.bridge import BridgeReader, Crossed, DeadlineNotice, Segment
from esper_core.errors import IntegrityError
from esper_core.files import atomic_write_json, read_json


@dataclass(slots=True)
class Span:
    """A segment that is being read.

    Attributes
    ----------
    open : set of int
        Records that are being acted on.
    deadline : DeadlineNotice or None
        The last that came.
    gone : bool
        Whether the writer has said goodbye.
    """

    segment: Segment
    reader: BridgeReader
    open: set[int] = field(default_factory=set)
    deadline: DeadlineNotice | None = None
    gone: bool = False
    _head: int = 0

    @classmethod
    def of(cls, segment: Segment) -> Self:
        """Go on where an earlier start stopped.

        Raises
        ------
        IntegrityError
            If the segment is none, or what an earlier start left is damaged.
        """
        seen = _seen(_cursor(segment))
        return cls(segment, BridgeReader(segment, seen), _head=seen)

    @staticmethod
    def remove(segment: Segment) -> None:
        """Remove the files of a segment that nobody writes any more."""
        segment.path.unlink(missing_ok=True)
        _cursor(segment).unlink(missing_ok=True)

    @property
    def busy(self) -> bool:
        """Whether something is still to be read or acted on."""
        return bool(self.open) or self.reader.waiting

    def take(self) -> Crossed:
        """Return what came since the last look."""
        if not self.reader.waiting:
            return Crossed((), 0)
        crossed = self.reader.take()
        self._head = crossed.records[-1][0] if crossed.records else self._head
        return crossed

    def done(self, number: int) -> None:
        """Take note that a record needs no more acting on, for later starts as well.

        Raises
        ------
        StorageError
            If that cannot be written.
        """
        self.open.discard(number)
        seen = min(self.open) - 1 if self.open else self._head
        atomic_write_json(_cursor(self.segment), {"seen": seen}, mode=0o600)

    def deadline_missed(self, now_s: float, grace_s: float) -> bool:
        """Say whether a rollback is still under way although its deadline and the grace are over."""
        return self.deadline is not None and self.deadline.running and now_s >= self.deadline.at_monotonic_s + grace_s

    def missed(self) -> int:
        """Take the missed deadline, so that it is raised once; returns its number."""
        assert self.deadline is not None
        number, self.deadline = self.deadline.number, None
        return number

    def close(self) -> None:
        """Let go of the memory."""
        self.reader.close()


def _cursor(segment: Segment) -> Path:
    return segment.path.with_name(f"{segment.path.name}.seen")


def _seen(path: Path) -> int:
    if not path.exists():
        return 0
    document = read_json(path)
    try:
        return int(document["seen"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is no mark of the bridge ({error}). Delete it.") from error
