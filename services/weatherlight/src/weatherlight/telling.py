"""What Weatherlight tells: to its log at once, and to the bus as telemetry."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from esper_core.logs import get_logger
from esper_core.telemetry import TelemetryEmitter

_LEVELS: Final = {
    "service_died": leyline.TELEMETRY_LEVEL_ERROR,
    "service_silent": leyline.TELEMETRY_LEVEL_ERROR,
    "service_crash_loop": leyline.TELEMETRY_LEVEL_CRITICAL,
}
_MODE_LEVELS: Final = {
    leyline.SYSTEM_MODE_OPERATIONAL: leyline.TELEMETRY_LEVEL_INFO,
    leyline.SYSTEM_MODE_CONSERVATIVE: leyline.TELEMETRY_LEVEL_WARNING,
    leyline.SYSTEM_MODE_EMERGENCY: leyline.TELEMETRY_LEVEL_CRITICAL,
}


class Teller:
    """Tells what happens to processes and to the mode.

    Parameters
    ----------
    emitter : TelemetryEmitter
        Takes events and metrics.
    """

    def __init__(self, emitter: TelemetryEmitter) -> None:
        self._emitter = emitter
        self._log = get_logger("weatherlight")

    def process(self, event: str, service: str, sentence: str) -> None:
        """Tell what happened to a process."""
        self._log.info(event, service_name=service, description=sentence)
        self._emitter.event(event, _LEVELS.get(event, leyline.TELEMETRY_LEVEL_INFO), sentence, service=service)
        if event == "service_died":
            self._emitter.count("weatherlight.restarts_total", service=service)

    def mode(self, mode: leyline.SystemMode.ValueType, reasons: list[str]) -> None:
        """Tell that the mode has changed, and why."""
        name = leyline.SystemMode.Name(mode).removeprefix("SYSTEM_MODE_")
        why = "; ".join(reasons) or "all reasons are gone"
        self._log.warning("system_mode", mode=name, reasons=reasons)
        self._emitter.event("system_mode", _MODE_LEVELS[mode], f"{name}: {why}", mode=name)
        self._emitter.gauge("weatherlight.mode", float(mode))
        self._emitter.count("weatherlight.mode.changes_total", to_mode=name)
