"""What a run does about emergencies at a fence: keeps the level, tells every signal, says when to hold or to halt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, from_timestamp, to_timestamp
from esper_core.ids import new_id
from tolaria.safety.alarm import Alarm, AlarmRules, Level, Note, Signal
from tolaria.training.orders import Order

LOCAL: str = "tolaria-worker"


class RunEmergencies:
    """The emergencies of one run; used by the training thread only.

    Parameters
    ----------
    rules : AlarmRules
        Caps and times.
    tell : callable
        Is told about every signal.
    raised_here : callable
        Hears at once, past every cap, what the run itself raises, so that others on this host hear of it.
    """

    def __init__(
        self,
        rules: AlarmRules,
        tell: Callable[[leyline.EmergencyNote], object],
        raised_here: Callable[[Signal], None] = lambda _: None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._alarm = Alarm(rules, clock=clock)
        self._teller = tell
        self._raised_here = raised_here
        self._clock = clock

    @property
    def active(self) -> bool:
        """Whether a fence has to look: a level stands or signals wait."""
        return self._alarm.standing is not None or self._alarm.waiting > 0

    @property
    def conservative(self) -> str:
        """Why no structural change may happen, empty where it may."""
        return self._reason(leyline.EMERGENCY_LEVEL_CONSERVATIVE)

    @property
    def halt(self) -> str:
        """Why the run must stop at this fence, empty where it need not."""
        return self._reason(leyline.EMERGENCY_LEVEL_HALT)

    def hear(self, order: Order) -> None:
        """Take an emergency from outside.

        Raises
        ------
        ValidationError
            If its level is none of L1 to L4.
        """
        moment = self._clock.wall() if order.triggered_at_s is None else _moment(order.triggered_at_s)
        level = leyline.EmergencyLevel.ValueType(order.level)
        self._tell(self._alarm.hear(Signal(level, order.reason, order.signal_id, order.origin, moment)))

    def trigger(self, level: Level, reason: str) -> None:
        """Raise an emergency of the run's own."""
        signal = Signal(level, reason, new_id("local"), LOCAL, self._clock.wall())
        self._raised_here(signal)
        self._tell(self._alarm.hear(signal))

    def relax(self, order: Order) -> None:
        """Lower the level to the one that is named, or clear the emergency where none is.

        Raises
        ------
        ValidationError, StateConflictError
            If it cannot be lowered to that level, or not yet.
        """
        if order.level:
            level = leyline.EmergencyLevel.ValueType(order.level)
            self._tell([self._alarm.lower(level, order.reason, order.origin)])
        else:
            self._tell(self._alarm.clear(order.reason, order.origin))

    def tell_waiting(self, *, last: bool = False) -> None:
        """Tell what the cap held back, as far as the minute has room; at the last fence all of it."""
        self._tell(self._alarm.flush() if last else self._alarm.release())

    def _reason(self, level: Level) -> str:
        standing = self._alarm.standing
        return f"Emergency: {standing.reason}" if standing is not None and standing.level >= level else ""

    def _tell(self, notes: list[Note]) -> None:
        for note in notes:
            self._teller(_message(self._spread(note)))

    def _spread(self, note: Note) -> Note:
        """Give a level that the alarm itself raised, for a storm of signals, what it takes to be heard elsewhere."""
        if note.how != "raised" or note.signal.signal_id:
            return note
        signal = replace(note.signal, signal_id=new_id("local"), origin=LOCAL)
        self._raised_here(signal)
        return replace(note, signal=signal)


def raised_here(note: leyline.EmergencyNote) -> Signal | None:
    """Return the signal behind a note where the run itself raised it, None where it came from elsewhere."""
    if note.origin != LOCAL or note.cleared or not note.signal_id:
        return None
    return Signal(note.level, note.reason, note.signal_id, note.origin, from_timestamp(note.triggered_at))


def _message(note: Note) -> leyline.EmergencyNote:
    signal = note.signal
    return leyline.EmergencyNote(
        level=signal.level,
        cleared=note.how == "cleared",
        reason=signal.reason,
        signal_id=signal.signal_id,
        origin=signal.origin,
        triggered_at=to_timestamp(signal.triggered_at),
        level_now=note.now,
        past_cap=note.past_cap,
        waited=note.waited,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
