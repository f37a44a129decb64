"""The bridge: what a training process tells the orchestrator of the same host through shared memory.

A folder holds one segment for each process, a ring whose name says which run and which process writes it. A record is
one byte that says its kind, and a body:

- `E`: an EmergencySignal, signed for the purpose `emergency`
- `D`: whether a rollback runs (bool), when it must be over (monotonic clock, s), its number
- `G`: nothing; the writer has gone in good order

Rings keep torn records from being read. Signatures are the reader's business: the same signal comes over the bus.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias

from google.protobuf.message import DecodeError

from esper_core import leyline
from esper_core.errors import IntegrityError, StorageError
from esper_core.files import ensure_directory
from esper_core.shared_ring import RingReader, RingWriter
from esper_core.stack.processes import ProcessIdentity

_NAME: Final = re.compile(r"([0-9A-Za-z]+)\.(\d+)\.(\d+)\.ring")
_DEADLINE: Final = struct.Struct("=?dQ")
_EMERGENCY_KIND, _DEADLINE_KIND, _GONE_KIND = b"E", b"D", b"G"
_LONGEST_REASON: Final = 200
"""Letters of a reason; with four bytes each the signal still fits into a slot."""


@dataclass(frozen=True, slots=True)
class DeadlineNotice:
    """When a rollback must be over, or that it is.

    Attributes
    ----------
    running : bool
        Whether it is still under way.
    at_monotonic_s : float
        When it must be over, on this host's monotonic clock.
    number : int
        Tells one deadline of a run from the next.
    """

    running: bool
    at_monotonic_s: float
    number: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The writer has gone in good order."""


Record: TypeAlias = leyline.EmergencySignal | DeadlineNotice | Gone


@dataclass(frozen=True, slots=True)
class Segment:
    """One process's part of the bridge."""

    path: Path
    run_id: str
    writer: ProcessIdentity

    @classmethod
    def own(cls, folder: Path, run_id: str) -> Self:
        """Return the segment that this process writes for a run."""
        writer = ProcessIdentity.own()
        return cls(folder / f"{run_id}.{writer.pid}.{writer.started_ticks}.ring", run_id, writer)

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """Return the segment in a file, None where its name is no segment's."""
        found = _NAME.fullmatch(path.name)
        return None if found is None else cls(path, found[1], ProcessIdentity(int(found[2]), int(found[3])))


class BridgeWriter:
    """The training process's end; any of its threads may write.

    Parameters
    ----------
    folder : Path
        The bridge; created where it does not exist.
    run_id : str
        The run.

    Raises
    ------
    StorageError, IntegrityError
        If the segment cannot be created.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        segment = Segment.own(ensure_directory(folder, mode=0o700), run_id)
        self._ring = RingWriter(segment.path)

    def emergency(self, signal: leyline.EmergencySignal) -> None:
        """Tell of an emergency; the signal is signed, and short as `shortened` makes it."""
        self._ring.write(_EMERGENCY_KIND + signal.SerializeToString())

    def deadline(self, notice: DeadlineNotice) -> None:
        """Tell when a rollback must be over, or that it is."""
        body = _DEADLINE.pack(notice.running, notice.at_monotonic_s, notice.number)
        self._ring.write(_DEADLINE_KIND + body)

    def close(self) -> None:
        """Say that nothing more comes; the reader removes the segment once it has read that."""
        self._ring.write(_GONE_KIND)
        self._ring.close()


@dataclass(frozen=True, slots=True)
class Crossed:
    """What came over the bridge since the last look.

    Attributes
    ----------
    records : sequence of (int, Record)
        Numbers and records, oldest first.
    lost : int
        How many were overwritten before they could be read.
    """

    records: Sequence[tuple[int, Record]]
    lost: int


class BridgeReader:
    """The orchestrator's end of one segment.

    Parameters
    ----------
    segment : Segment
        The segment.
    seen : int
        Number of the last record that needs no more reading.

    Raises
    ------
    IntegrityError
        If the file is no ring.
    """

    def __init__(self, segment: Segment, seen: int = 0) -> None:
        self.segment = segment
        self._ring = RingReader(segment.path)
        self._seen = seen

    @property
    def waiting(self) -> bool:
        """Whether something came; costs less than a microsecond."""
        return self._ring.head != self._seen

    def take(self) -> Crossed:
        """Return what came.

        Raises
        ------
        IntegrityError
            If a whole record is none that a writer makes.
        """
        reading = self._ring.since(self._seen)
        self._seen = reading.head
        first = reading.head - len(reading.payloads) + 1
        return Crossed([(first + at, _parsed(data)) for at, data in enumerate(reading.payloads)], reading.lost)

    def close(self) -> None:
        """Let go of the memory."""
        self._ring.close()


def shortened(reason: str) -> str:
    """Return as much of a reason as the bridge has room for."""
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"


def segments(folder: Path) -> list[Segment]:
    """Return the segments of a bridge, oldest name first; a folder that does not exist has none.

    Raises
    ------
    StorageError
        If the folder cannot be read.
    """
    try:
        found = [Segment.at(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    except OSError as error:
        raise StorageError.from_os_error(error, folder, "list the bridge") from error
    return [segment for segment in found if segment is not None]


def _parsed(data: bytes) -> Record:
    kind, body = data[:1], data[1:]
    try:
        if kind == _EMERGENCY_KIND:
            return leyline.EmergencySignal.FromString(body)
        if kind == _DEADLINE_KIND:
            return DeadlineNotice(*_DEADLINE.unpack(body))
    except (DecodeError, struct.error) as error:
        raise IntegrityError(f"A record of the bridge cannot be read ({error}). Update both ends.") from error
    if kind == _GONE_KIND:
        return Gone()
    raise IntegrityError(f"The bridge brought a record of unknown kind {kind!r}. Update both ends.")
