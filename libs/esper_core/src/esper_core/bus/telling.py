"""What the client tells about itself: counters and gauges for Prometheus, events for the bus itself."""

from __future__ import annotations

from typing import Any, Final, Protocol

from esper_core import leyline
from esper_core.logs import get_logger
from esper_core.telemetry import Instruments

_log: Final = get_logger("bus")
_LEVELS: Final = {
    leyline.TELEMETRY_LEVEL_INFO: "info",
    leyline.TELEMETRY_LEVEL_WARNING: "warning",
    leyline.TELEMETRY_LEVEL_ERROR: "error",
    leyline.TELEMETRY_LEVEL_CRITICAL: "critical",
}


class EventSink(Protocol):
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


class Teller:
    """Where the parts of the client report; every event is logged too."""

    def __init__(self, instruments: Instruments | None) -> None:
        self._instruments = instruments
        self.sink: EventSink | None = None

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Raise a counter."""
        if self._instruments is not None:
            self._instruments.count(name, amount, **labels)

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        if self._instruments is not None:
            self._instruments.gauge(name, value)

    def event(self, name: str, level: leyline.TelemetryLevel.ValueType, description: str, **attributes: str) -> None:
        """Tell that something happened."""
        getattr(_log, _LEVELS[level])(name, description=description, **attributes)
        if self.sink is not None:
            self.sink.event(name, level, description, **attributes)
