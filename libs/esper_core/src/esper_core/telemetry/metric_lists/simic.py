"""Metrics of Simic, the learner."""

from esper_core.telemetry.definition import counter, gauge

METRICS = (
    counter("simic.field_reports.ingested_total", "Field reports stored."),
    counter("simic.field_reports.duplicates_total", "Field reports that were stored before."),
    counter("simic.field_reports.rejected_total", "Field reports that were not valid.", "reason"),
    gauge("simic.replay.size", "1", "Records in the replay store."),
    gauge("simic.training.loss", "1", "Loss of the last training step."),
    gauge("simic.training.reward", "1", "Mean reward of the last batch."),
    counter("simic.policies.published_total", "Policies published."),
    counter("simic.validation.failures_total", "Policies that failed the validation gate."),
)
