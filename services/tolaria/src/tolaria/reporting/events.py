"""The run's events: numbered, written to the journal, then offered to whoever listens in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import InternalError
from esper_core.ids import new_ulid
from esper_core.journal import JournalWriter, read_journal

Listener = Callable[[leyline.RunEvent], None]

_FIELDS: Final[dict[type[Message], tuple[str, int]]] = {
    leyline.RunStateChange: ("state", leyline.RUN_EVENT_KIND_STATE),
    leyline.RunProgress: ("progress", leyline.RUN_EVENT_KIND_PROGRESS),
    leyline.ValidationMetrics: ("validation", leyline.RUN_EVENT_KIND_VALIDATION),
    leyline.Decision: ("decision", leyline.RUN_EVENT_KIND_DECISION),
    leyline.CommandOutcome: ("command", leyline.RUN_EVENT_KIND_COMMAND),
    leyline.SeedTransition: ("seed", leyline.RUN_EVENT_KIND_SEED_STAGE),
    leyline.GateResult: ("gate", leyline.RUN_EVENT_KIND_GATE),
    leyline.DirectiveResult: ("directive", leyline.RUN_EVENT_KIND_DIRECTIVE),
    leyline.RollbackReport: ("rollback", leyline.RUN_EVENT_KIND_ROLLBACK),
    leyline.CheckpointInfo: ("checkpoint", leyline.RUN_EVENT_KIND_CHECKPOINT),
    leyline.EmergencyNote: ("emergency", leyline.RUN_EVENT_KIND_EMERGENCY),
    leyline.ControlLoss: ("control_loss", leyline.RUN_EVENT_KIND_CONTROL_LOSS),
    leyline.RunResult: ("result", leyline.RUN_EVENT_KIND_RESULT),
    leyline.TeacherChange: ("teacher", leyline.RUN_EVENT_KIND_TEACHER),
    leyline.BreakerMove: ("breaker", leyline.RUN_EVENT_KIND_BREAKER),
    leyline.GradientReport: ("gradients", leyline.RUN_EVENT_KIND_GRADIENTS),
    leyline.SpeedNote: ("speed", leyline.RUN_EVENT_KIND_SPEED),
}


class EventLog:
    """The only writer of a run's event journal; both threads of the worker may use it.

    A crash of the process loses nothing that was appended, because every record reaches the system at once; `sync`
    makes it survive a crash of the machine as well and is called at checkpoints.

    Parameters
    ----------
    path : Path
        The journal; numbering goes on where it ends.
    run_id : str
        The run.
    """

    def __init__(self, path: Path, run_id: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._run_id = run_id
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence = last_sequence(path)
        self._journal = JournalWriter(path, sync="manual")
        self._listener: Listener | None = None

    @property
    def sequence(self) -> int:
        """Number of the last event."""
        return self._sequence

    @property
    def repaired(self) -> str:
        """What a crash had left at the journal's end and was cut off, as a sentence; empty where nothing was."""
        damage = self._journal.repaired
        return f"{damage.length} damaged bytes at offset {damage.offset} were cut off." if damage else ""

    def last(self, kind: int) -> leyline.RunEvent | None:
        """Return the last event of a kind that the journal holds, of earlier starts as well; None where it has none."""
        for payload in reversed(read_journal(self._path).payloads):
            event = leyline.RunEvent.FromString(payload)
            if event.kind == kind:
                return event
        return None

    def listen(self, listener: Listener) -> None:
        """Name the one who is told about every event from now on; it must not block."""
        self._listener = listener

    def append(self, payload: Message, step: int) -> leyline.RunEvent:
        """Give an event its number, write it and pass it on.

        Parameters
        ----------
        payload : Message
            One of the payloads of RunEvent.
        step : int
            Optimizer step at which it happened.

        Raises
        ------
        StorageError
            If the journal cannot be written.
        """
        if type(payload) not in _FIELDS:
            raise InternalError(f"{type(payload).__name__} is no payload of a RunEvent.")
        field, kind = _FIELDS[type(payload)]
        with self._lock:
            event = leyline.RunEvent(
                version=1,
                event_id=new_ulid(self._clock),
                training_run_id=self._run_id,
                kind=leyline.RunEventKind.ValueType(kind),
                occurred_at=to_timestamp(self._clock.wall()),
                global_step=step,
                sequence=self._sequence + 1,
            )
            getattr(event, field).CopyFrom(payload)
            self._journal.append(event.SerializeToString())
            self._sequence += 1
        if self._listener is not None:
            self._listener(event)
        return event

    def sync(self) -> None:
        """Make everything durable."""
        self._journal.sync()

    def close(self) -> None:
        """Make everything durable and let go of the journal."""
        self._journal.close()


def last_sequence(path: Path) -> int:
    """Return the number of the last whole event of a journal, 0 where there is none."""
    if not path.exists():
        return 0
    payloads = read_journal(path).payloads
    return leyline.RunEvent.FromString(payloads[-1]).sequence if payloads else 0
