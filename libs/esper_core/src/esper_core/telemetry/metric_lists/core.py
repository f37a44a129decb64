"""Metrics of what every process shares."""

from esper_core.telemetry.definition import counter, gauge, histogram

METRICS = (
    counter("telemetry.events_suppressed_total", "Events held back by the rate limit.", "event"),
    counter("telemetry.records_dropped_total", "Metric points and events dropped because the buffer was full."),
    counter("telemetry.publish_failures_total", "Packets that could not be published at the first try."),
    gauge("telemetry.buffer.records", "1", "Metric points and events that wait to be published."),
    histogram("leyline.message.size_bytes", "By", "Size of serialised messages.", "message"),
    counter("esper.breaker.transitions_total", "State changes of circuit breakers.", "breaker", "to_state"),
    gauge("esper.breaker.state", "1", "State of a circuit breaker: 1 closed, 2 open, 3 half open.", "breaker"),
    counter("bus.publish_total", "Messages of this process by what became of them.", "outcome"),
    counter("bus.publish_failures_total", "Batches that the bus did not take."),
    gauge("bus.buffer.messages", "1", "Messages that wait because the bus is away."),
    counter("bus.consume_total", "Messages that handlers of this process have answered.", "outcome"),
    counter("bus.rejected_total", "Delivered envelopes that did not pass verification.", "code"),
    counter("esper.worker.jobs_total", "Jobs of the shared worker by outcome.", "outcome"),
    counter("esper.dependency_violations_total", "Required inputs that were missing.", "dependency"),
)
