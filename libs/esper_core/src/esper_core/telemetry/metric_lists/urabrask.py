"""Metrics of Urabrask, the assessor."""

from esper_core.telemetry.definition import counter, gauge, histogram

METRICS = (
    counter("urabrask.bsds.issued_total", "Data sheets issued, by hazard band.", "hazard_band"),
    counter("urabrask.bsds.failed_total", "Assessments that failed.", "reason"),
    counter("urabrask.hazards_total", "Hazards on issued data sheets.", "hazard"),
    counter("urabrask.trials.stopped_total", "Trials that broke a limit or killed their process.", "hazard"),
    gauge("urabrask.children.replaced", "1", "Child processes that died or were killed since start."),
    histogram("urabrask.assessment.latency_ms", "ms", "Time of an assessment."),
    histogram("urabrask.kernel.build_ms", "ms", "Time to materialise a kernel."),
    counter("urabrask.kernels_total", "Kernel requests by result.", "result"),
    gauge("urabrask.jobs.active", "1", "Jobs that are queued or running."),
)
