"""Metrics of Weatherlight, the orchestrator."""

from esper_core.telemetry.definition import counter, gauge, histogram

METRICS = (
    gauge("weatherlight.services.serving", "1", "1 while a service says SERVING.", "service"),
    counter("weatherlight.restarts_total", "Restarts of a service's process.", "service"),
    gauge("weatherlight.mode", "1", "System mode: 1 operational, 2 conservative, 3 emergency."),
    counter("weatherlight.mode.changes_total", "Changes of the system mode.", "to_mode"),
    counter("weatherlight.emergency.telemetry_total", "Emergency telemetry by source.", "source"),
    counter("weatherlight.emergency.tamiyo_total", "Emergency telemetry from Tamiyo."),
    counter("weatherlight.emergency.routed_total", "Emergency signals acted on.", "level", "result"),
    counter("weatherlight.emergency.duplicates_total", "Emergency signals that were seen before."),
    histogram("weatherlight.emergency.route_ms", "ms", "Time from receipt to the acting service."),
)
