"""What the house hears of run events: the points and telemetry events that a run's worker makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from esper_core import leyline
from esper_core.telemetry import TelemetryEmitter
from tolaria.reporting.metering import meter


@dataclass(slots=True)
class Heard:
    """Points and events in the order in which they were told."""

    points: list[leyline.MetricPoint] = field(default_factory=list)
    events: list[leyline.TelemetryEvent] = field(default_factory=list)

    async def take(self, packet: leyline.TelemetryPacket) -> None:
        """Keep what a packet carries."""
        self.points.extend(packet.metrics)
        self.events.extend(packet.events)


async def metered(events: Iterable[leyline.RunEvent]) -> Heard:
    """Meter run events as their worker would."""
    heard = Heard()
    emitter = TelemetryEmitter("tolaria", heard.take)
    for event in events:
        meter(emitter, event)
    assert await emitter.flush()
    return heard
