"""Metrics of Nissa, the observatory."""

from esper_core.telemetry.definition import counter, gauge

METRICS = (
    counter(
        "nissa.field_reports_total",
        "Field reports by outcome.",
        "outcome",
        prometheus="esper_field_reports_total",
    ),
    counter("nissa.packets_total", "Telemetry packets taken in.", "source"),
    counter("nissa.packets_rejected_total", "Telemetry packets that were not valid.", "reason"),
    counter("nissa.emergencies_total", "Emergency signals seen.", "level", "origin"),
    counter("nissa.events_stored_total", "Events written to the history."),
    gauge("nissa.history.events", "1", "Events in the history."),
    gauge("nissa.alerts.active", "1", "Alerts that are firing.", "rule"),
    gauge("nissa.series", "1", "Metric series that are kept."),
)
