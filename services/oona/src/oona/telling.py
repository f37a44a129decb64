"""What Oona tells about itself: instruments for Prometheus, events for the bus."""

from __future__ import annotations

from typing import Any, Final, Protocol

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.bus.routing import EMERGENCY
from esper_core.errors import CommandRejectedError, EsperError, IntegrityError
from esper_core.logs import get_logger
from esper_core.telemetry import Instruments

_log: Final = get_logger("oona")
_BROKEN_SEALS: Final = (CommandRejectedError, IntegrityError)


class Events(Protocol):
    """Takes events; `TelemetryEmitter` is one."""

    def event(
        self,
        name: str,
        level: leyline.TelemetryLevel.ValueType,
        description: str,
        *,
        run_id: str = "",
        **attributes: Any,
    ) -> None:
        """Take one event."""
        ...

    def breaker_moved(self, transition: Transition) -> None:
        """Take a transition of a breaker."""
        ...


class Teller:
    """The one place where Oona's metrics and events are named.

    Parameters
    ----------
    instruments : Instruments
        Prometheus instruments.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.instruments = instruments
        self.events: Events | None = None

    def published(self, envelope: leyline.BusEnvelope, stream: str) -> None:
        """Count an accepted message."""
        self.instruments.count("oona.publish_total", stream=stream)
        if stream == EMERGENCY:
            priority = leyline.MessagePriority.Name(envelope.priority).removeprefix("MESSAGE_PRIORITY_")
            self.instruments.count("oona.emergency.messages_total", source=envelope.source, priority=priority)

    def tokens(self, source: str, left: float) -> None:
        """Show how many HIGH messages a source may send at once."""
        self.instruments.gauge("oona.emergency.tokens", left, source=source)

    def held_back(self, envelope: leyline.BusEnvelope, error: EsperError) -> None:
        """Count a message that admission, Redis or the journal did not let in."""
        reason = error.details.get("reason", "unavailable")
        self.instruments.count("oona.publish.rejected_total", reason=reason)
        if reason == "rate_limit":
            self.instruments.count("oona.emergency.rate_limited_total", source=envelope.source)

    def rejected(self, envelope: leyline.BusEnvelope, error: EsperError) -> None:
        """Tell that an envelope did not pass verification; a broken seal is CRITICAL."""
        broken = isinstance(error, _BROKEN_SEALS)
        reason = error.details.get("reject_reason_name", "integrity" if broken else "contract").lower()
        self.instruments.count("oona.publish.rejected_total", reason=reason)
        self.instruments.count("oona.dead_letter.messages_total", reason=reason)
        level = leyline.TELEMETRY_LEVEL_CRITICAL if broken else leyline.TELEMETRY_LEVEL_WARNING
        sentence = f"An envelope was refused at the entrance: {error.message}"
        attributes = {"source": envelope.source[:64], "message_id": envelope.message_id[:64], "reason": reason}
        self.event("envelope_rejected", level, sentence, **attributes)

    def given_back(self, became: str, stream: str, reason: str, attempt_group: str) -> None:
        """Tell what became of a failed delivery."""
        if became == "delayed":
            self.instruments.count("oona.retries_total", stream=stream)
        elif became == "buried":
            self.instruments.count("oona.dead_letter.messages_total", reason="handler")
            sentence = f"A message of the {stream} stream became a dead letter: {reason}"
            self.event(
                "message_dead_lettered", leyline.TELEMETRY_LEVEL_ERROR, sentence, stream=stream, group=attempt_group
            )
        elif became == "trimmed":
            self.lost_by_trim(stream, 1)

    def lost_by_trim(self, stream: str, count: int) -> None:
        """Tell that messages were trimmed away before a group had handled them."""
        self.instruments.count("oona.trimmed_unread_total", count, stream=stream)
        sentence = f"{count} messages of the {stream} stream were trimmed before a group had handled them."
        self.event("messages_trimmed_unread", leyline.TELEMETRY_LEVEL_ERROR, sentence, stream=stream, count=count)

    def pressure(self, stream: str, level: int, backlog: int) -> None:
        """Tell a change of back-pressure."""
        refused = ("nothing", "LOW", "LOW and NORMAL")[level]
        sentence = f"The {stream} stream now refuses {refused} messages; its slowest group is {backlog} behind."
        grave = leyline.TELEMETRY_LEVEL_WARNING if level else leyline.TELEMETRY_LEVEL_INFO
        self.event("back_pressure", grave, sentence, stream=stream, backlog=backlog)

    def breaker_moved(self, transition: Transition) -> None:
        """Show and tell a breaker's state."""
        self.instruments.gauge("oona.breaker.state", transition.to_state, breaker=transition.breaker)
        _log.warning("breaker moved", breaker=transition.breaker, state=transition.to_state, reason=transition.reason)
        if self.events is not None:
            self.events.breaker_moved(transition)

    def event(self, name: str, level: leyline.TelemetryLevel.ValueType, description: str, **attributes: Any) -> None:
        """Log an event and put it on the bus."""
        warned = level >= leyline.TELEMETRY_LEVEL_WARNING
        (_log.warning if warned else _log.info)(name, description=description, **attributes)
        if self.events is not None:
            self.events.event(name, level, description, **attributes)
