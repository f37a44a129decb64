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
    gauge("weatherlight.bridge.segments", "1", "Training processes that can reach Weatherlight by shared memory."),
    counter("weatherlight.bridge.records_total", "Records that came by shared memory.", "kind"),
    counter("weatherlight.bridge.lost_total", "Records in shared memory that were overwritten before they were read."),
    counter("weatherlight.bridge.unreadable_total", "Segments that were given up because they could not be read."),
    counter("weatherlight.bridge.dead_writers_total", "Segments whose writer died without a word."),
    histogram("weatherlight.emergency.route_ms", "ms", "Time from receipt to the acting service."),
)
