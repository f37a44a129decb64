"""The emergency level of one run: rises at once, falls only on an explicit word, and loses no signal to a rate cap.

What a signal does is never delayed: the level is at least that of the gravest signal heard. The cap holds back only
the telling. A signal that raises the level is told past the cap, up to a cap of its own. Everything else waits, is told
when the minute has room again, and a storm of waiting signals raises the level by one itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import StateConflictError, ValidationError
from tolaria.safety.cap import MinuteCap

Level: TypeAlias = leyline.EmergencyLevel.ValueType
NONE: Final = leyline.EMERGENCY_LEVEL_UNSPECIFIED
_GRAVEST_OF_A_STORM: Final = leyline.EMERGENCY_LEVEL_CONSERVATIVE


@dataclass(frozen=True, slots=True)
class Signal:
    """One emergency as somebody raised it; `triggered_at` is aware."""

    level: Level
    reason: str
    signal_id: str
    origin: str
    triggered_at: datetime


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be told about a signal.

    Attributes
    ----------
    signal : Signal
        The signal, or the word that lowered or cleared the level.
    now : Level
        Level that stands, 0 for none.
    how : str
        What became of it; "held" means that the level stood as high before.
    past_cap : bool
        Whether it was told although the minute was full.
    waited : bool
        Whether the cap held it back for a while.
    """

    signal: Signal
    now: Level
    how: Literal["raised", "held", "lowered", "cleared"]
    past_cap: bool = False
    waited: bool = False


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """When to hold back and when to let go.

    Attributes
    ----------
    per_minute : int
        Signals told within a minute.
    bypass_per_minute : int
        Signals that raise the level and are told past that cap.
    hold_s : float
        How long a level stands after its last signal before it can be lowered.
    queue_limit : int
        Waiting signals at which the run is halted.
    """

    per_minute: int = 60
    bypass_per_minute: int = 12
    hold_s: float = 30.0
    queue_limit: int = 1024


class Alarm:
    """Keeps the level. Not thread-safe: it belongs to the training thread.

    Parameters
    ----------
    rules : AlarmRules
        Caps and times.
    """

    def __init__(self, rules: AlarmRules, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._rules = rules
        self._clock = clock
        self._usual = MinuteCap(rules.per_minute, clock=clock)
        self._bypass = MinuteCap(rules.bypass_per_minute, clock=clock)
        self._waiting: deque[Note] = deque()
        self._standing: Signal | None = None
        self._heard_at_s = 0.0
        self._storming = False

    @property
    def standing(self) -> Signal | None:
        """The signal that set the level, None where none stands."""
        return self._standing

    @property
    def level(self) -> Level:
        """Level now, 0 for none."""
        return self._standing.level if self._standing is not None else NONE

    @property
    def waiting(self) -> int:
        """Signals that are still to be told."""
        return len(self._waiting)

    def hear(self, signal: Signal) -> list[Note]:
        """Take a signal and return what is to be told now.

        Raises
        ------
        ValidationError
            If its level is none of L1 to L4.
        """
        require_level(signal.level)
        told = self.release()
        note = self._take(signal)
        if self._usual.admit():
            return [*told, note]
        if note.how == "raised" and self._bypass.admit():
            return [*told, replace(note, past_cap=True)]
        self._waiting.append(note)
        return told + self._escalate()

    def lower(self, level: Level, reason: str, origin: str) -> Note:
        """Lower the level to one below it, once it was quiet for long enough.

        Raises
        ------
        ValidationError
            If the level is not below the one that stands, or is none of L1 to L3.
        StateConflictError
            If signals of the present level came too recently.
        """
        require_level(level)
        if level >= self.level:
            raise ValidationError(
                f"Level {level} is not below level {self.level}. Raise an emergency, or clear it.",
                field="level",
                allowed=f"1 to {self.level - 1}" if self.level > 1 else "nothing: no higher level stands",
            )
        quiet_s = self._clock.monotonic() - self._heard_at_s
        if quiet_s < self._rules.hold_s:
            raise StateConflictError(
                f"Level {self.level} was signalled {quiet_s:.1f} s ago and stands for {self._rules.hold_s:g} s. "
                "Wait for that, or clear the emergency."
            )
        word = self._word(level, reason, origin)
        self._standing, self._heard_at_s = word, self._clock.monotonic()
        return Note(word, level, "lowered")

    def clear(self, reason: str, origin: str) -> list[Note]:
        """Tell what waits, then forget everything: level, reason, origin, times, caps and the storm."""
        cleared = self._word(self.level, reason, origin)
        told = self.flush()
        self._standing, self._heard_at_s, self._storming = None, 0.0, False
        self._usual.reset()
        self._bypass.reset()
        return [*(replace(note, now=NONE) for note in told), Note(cleared, NONE, "cleared")]

    def release(self) -> list[Note]:
        """Return the waiting notes for which the minute has room again."""
        told: list[Note] = []
        while self._waiting and self._usual.admit():
            told.append(self._late(self._waiting.popleft()))
        if not self._waiting:
            self._storming = False
        return told

    def flush(self) -> list[Note]:
        """Return everything that waits, because there will be no later minute."""
        told = [self._late(note) for note in self._waiting]
        self._waiting.clear()
        return told

    def _take(self, signal: Signal) -> Note:
        raised = signal.level > self.level
        if signal.level >= self.level:
            self._heard_at_s = self._clock.monotonic()
        if raised:
            self._standing = signal
        return Note(signal, self.level, "raised" if raised else "held")

    def _escalate(self) -> list[Note]:
        """Raise the level by one at the begin of a storm, and halt where not even the queue can hold it."""
        if len(self._waiting) >= self._rules.queue_limit:
            full = f"{len(self._waiting)} emergencies wait to be told."
            return [*self.flush(), self._take(self._word(leyline.EMERGENCY_LEVEL_HALT, full, "tolaria"))]
        if self._storming:
            return []
        self._storming = True
        step_up = leyline.EmergencyLevel.ValueType(min(self.level + 1, _GRAVEST_OF_A_STORM))
        reason = f"More than {self._usual.limit} emergencies came within a minute; the others are told later."
        return [replace(self._take(self._word(step_up, reason, "tolaria")), past_cap=True)]

    def _late(self, note: Note) -> Note:
        return replace(note, now=self.level, waited=True)

    def _word(self, level: Level, reason: str, origin: str) -> Signal:
        return Signal(level, reason, "", origin, self._clock.wall())


def require_level(level: int) -> None:
    """Refuse what is none of the four levels.

    Raises
    ------
    ValidationError
        With the levels that there are.
    """
    if level == NONE or level not in leyline.EmergencyLevel.values():
        raise ValidationError(f"{level} is no emergency level.", field="level", allowed="1 (NOTICE) to 4 (HALT)")
