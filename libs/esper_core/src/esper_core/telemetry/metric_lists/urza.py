"""Metrics of Urza, the library."""

from esper_core.telemetry.definition import counter, gauge, histogram

METRICS = (
    gauge("urza.blueprints", "1", "Blueprints in the catalogue."),
    gauge("urza.kernels", "1", "Kernels in the library."),
    gauge("urza.artefact_bytes", "By", "Bytes of all artefacts."),
    counter("urza.kernels.put_total", "Kernels stored, by result.", "result"),
    counter("urza.kernels.fetched_total", "Kernels fetched, by result.", "result"),
    histogram("urza.kernels.fetch_ms", "ms", "Time to send a kernel."),
    counter("urza.catalogue.changes_total", "Changes of the catalogue, by kind.", "kind"),
)
