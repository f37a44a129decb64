"""Processes, named so that a recycled process id is never mistaken for the process it once belonged to."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_STATE_FIELD: Final = 0
_START_TIME_FIELD: Final = 19
STACK_VARIABLE: Final = "ESPER_STACK_ID"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process id together with the moment its process began.

    Parameters
    ----------
    pid : int
        Process id.
    started_ticks : int
        Start time in clock ticks since the machine came up, as the kernel tells it.
    """

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a living process, None when there is none (a zombie does not live)."""
        fields = _stat_fields(pid)
        if fields is None or fields[_STATE_FIELD] in ("Z", "X"):
            return None
        return cls(pid, int(fields[_START_TIME_FIELD]))

    @classmethod
    def own(cls) -> Self:
        """Return the identity of this process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    def is_alive(self) -> bool:
        """Return whether this very process still lives."""
        return ProcessIdentity.of(self.pid) == self

    def send(self, which: signal.Signals) -> bool:
        """Send a signal; return False when the process is gone."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, which)
        except ProcessLookupError:
            return False
        return True


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold blanks and brackets; the fields begin after its last closing bracket.
    return text.rpartition(")")[2].split()


def members(stack_id: str) -> list[ProcessIdentity]:
    """Return every living process that was started on behalf of a stack, this one excluded.

    Membership is inherited through the environment, so that workers of workers are found as well.
    """
    mark = f"{STACK_VARIABLE}={stack_id}".encode()
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    identities = (ProcessIdentity.of(pid) for pid in found if pid != os.getpid() and mark in _environment(pid))
    return [identity for identity in identities if identity is not None]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
