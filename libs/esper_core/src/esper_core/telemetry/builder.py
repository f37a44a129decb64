"""Building a TelemetryPacket: metrics by their definition, events with a level, a priority that is always chosen."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Self, TypeAlias

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import ContractError
from esper_core.guard import require_id
from esper_core.ids import new_ulid
from esper_core.telemetry.catalog import definition_of

Level: TypeAlias = leyline.TelemetryLevel.ValueType
Priority: TypeAlias = leyline.MessagePriority.ValueType
Health: TypeAlias = leyline.HealthStatus.ValueType

MAX_TEXT_CHARS: Final = 1000

PRIORITY_OF_LEVEL: Final[Mapping[Level, Priority]] = MappingProxyType(
    {
        leyline.TELEMETRY_LEVEL_INFO: leyline.MESSAGE_PRIORITY_NORMAL,
        leyline.TELEMETRY_LEVEL_WARNING: leyline.MESSAGE_PRIORITY_NORMAL,
        leyline.TELEMETRY_LEVEL_ERROR: leyline.MESSAGE_PRIORITY_HIGH,
        leyline.TELEMETRY_LEVEL_CRITICAL: leyline.MESSAGE_PRIORITY_CRITICAL,
    }
)
"""The one mapping from how grave an event is to how urgently it travels."""


def priority_of(level: Level) -> Priority:
    """Return the priority that a level travels with.

    Raises
    ------
    ContractError
        If the level is UNSPECIFIED.
    """
    if level not in PRIORITY_OF_LEVEL:
        raise ContractError("The telemetry level is UNSPECIFIED; choose one.", field="level")
    return PRIORITY_OF_LEVEL[level]


def make_event(
    name: str, level: Level, description: str, attributes: Mapping[str, object], clock: Clock = SYSTEM_CLOCK
) -> leyline.TelemetryEvent:
    """Build one event; texts are cut at MAX_TEXT_CHARS.

    Raises
    ------
    ContractError
        If the level is UNSPECIFIED.
    """
    priority_of(level)
    return leyline.TelemetryEvent(
        event_id=new_ulid(clock),
        name=name,
        level=level,
        description=description[:MAX_TEXT_CHARS],
        attributes=texts(attributes),
        occurred_at=to_timestamp(clock.wall()),
    )


def texts(attributes: Mapping[str, object]) -> dict[str, str]:
    """Turn attribute values into bounded text."""
    return {name: str(value)[:MAX_TEXT_CHARS] for name, value in attributes.items()}


class TelemetryBuilder:
    """Collects what one packet will hold.

    Parameters
    ----------
    source : str
        Service that sends.
    run_id : str
        Run concerned; empty where none is.
    clock : Clock
        Source of time.
    """

    def __init__(self, source: str, *, run_id: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._packet = leyline.TelemetryPacket(
            version=leyline.LEYLINE_VERSION, source=require_id("source", source), training_run_id=run_id
        )

    def metric(self, name: str, value: float, **attributes: object) -> Self:
        """Add one point; its unit comes from the catalogue.

        Raises
        ------
        ValidationError
            If the catalogue has no such metric.
        """
        unit = definition_of(name).unit
        self._packet.metrics.add(name=name, value=value, unit=unit, attributes=texts(attributes))
        return self

    def event(self, name: str, level: Level, description: str, **attributes: object) -> Self:
        """Add one event that happens now.

        Raises
        ------
        ContractError
            If the level is UNSPECIFIED.
        """
        self._packet.events.append(make_event(name, level, description, attributes, self._clock))
        return self

    def add(self, *parts: leyline.TelemetryEvent | leyline.MetricPoint) -> Self:
        """Add finished events and points."""
        for part in parts:
            if isinstance(part, leyline.TelemetryEvent):
                self._packet.events.append(part)
            else:
                self._packet.metrics.append(part)
        return self

    def health(self, status: Health, summary: str, indicators: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Say how the source sees itself."""
        self._packet.health.Clear()
        self._packet.health.status = status
        self._packet.health.summary = summary
        for name, text in indicators.items():
            self._packet.health.indicators.add(name=name, text=text)
        return self

    @property
    def level(self) -> Level:
        """Highest level of the events so far; INFO without events."""
        return max((event.level for event in self._packet.events), default=leyline.TELEMETRY_LEVEL_INFO)

    def build(self, priority: Priority) -> leyline.TelemetryPacket:
        """Return the finished packet.

        Parameters
        ----------
        priority : MessagePriority
            How urgently the packet travels; carried unchanged from here on. `priority_of(builder.level)` is the rule.

        Raises
        ------
        ContractError
            If the priority is UNSPECIFIED.
        """
        packet = leyline.TelemetryPacket()
        packet.CopyFrom(self._packet)
        packet.packet_id = new_ulid(self._clock)
        packet.timestamp.CopyFrom(to_timestamp(self._clock.wall()))
        packet.level = self.level
        packet.priority = priority
        leyline.validate(packet)
        return packet
