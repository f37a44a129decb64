"""The deadline of a rollback in shared memory, so that another process sees it missed even when the worker hangs."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from esper_core.bridge import DeadlineNotice
from esper_core.shared_ring import RingReader, RingWriter
from tolaria.rundir import RunDirectory
from tolaria.safety.bridge import Bridge

LAYOUT: Final = struct.Struct("=?ddQ")


@dataclass(frozen=True, slots=True)
class Deadline:
    """What the worker has announced.

    Attributes
    ----------
    number : int
        Rises with every announcement; tells one deadline from the next.
    running : bool
        Whether the rollback is still under way.
    at_monotonic_s : float
        When it has to be over, on this host's monotonic clock.
    at_s : float
        The same in Unix seconds, for people.
    pid : int
        The process that announced it; what a dead one announced means nothing.
    """

    number: int
    running: bool
    at_monotonic_s: float
    at_s: float
    pid: int


class DeadlineBoard:
    """The worker's end.

    Parameters
    ----------
    run : RunDirectory
        The run.
    bridge : Bridge, optional
        Carries the same to the orchestrator of this host.
    """

    def __init__(self, run: RunDirectory, bridge: Bridge | None = None) -> None:
        self._ring = RingWriter(run.deadlines_path)
        self._bridge = bridge
        self.over()

    def begin(self, at_monotonic_s: float, at_s: float) -> None:
        """Announce when the rollback that begins now has to be over."""
        self._announce(True, at_monotonic_s, at_s)

    def over(self) -> None:
        """Say that no rollback is under way."""
        self._announce(False, 0.0, 0.0)

    def close(self) -> None:
        """Let go of the memory."""
        self._ring.close()

    def _announce(self, running: bool, at_monotonic_s: float, at_s: float) -> None:
        number = self._ring.write(LAYOUT.pack(running, at_monotonic_s, at_s, os.getpid()))
        if self._bridge is not None:
            self._bridge.deadline(DeadlineNotice(running, at_monotonic_s, number))


def announced_deadline(run: RunDirectory) -> Deadline | None:
    """Return the last announcement of a run's worker, or None where there was none.

    Raises
    ------
    IntegrityError
        If the file is damaged.
    """
    if not run.deadlines_path.exists():
        return None
    with RingReader(run.deadlines_path) as ring:
        found = ring.latest()
    return None if found is None else Deadline(found[0], *LAYOUT.unpack(found[1]))
