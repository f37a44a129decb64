"""Metrics of Oona, the broker."""

from esper_core.telemetry.definition import counter, gauge, histogram

METRICS = (
    counter("oona.publish_total", "Messages accepted for publication.", "stream"),
    counter("oona.publish.rejected_total", "Messages refused.", "reason"),
    histogram("oona.publish.latency_ms", "ms", "Time to write a message to its stream.", "stream"),
    gauge("oona.queue.depth", "1", "Messages of a stream that a group has not acknowledged.", "stream", "group"),
    gauge("oona.queue.pending", "1", "Messages delivered and not acknowledged.", "stream", "group"),
    counter("oona.deliveries_total", "Messages delivered.", "stream"),
    counter("oona.acks_total", "Messages acknowledged.", "stream"),
    counter("oona.retries_total", "Messages delivered again after a failure.", "stream"),
    counter("oona.claimed_total", "Stale messages claimed and delivered.", "stream"),
    counter("oona.dead_letter.messages_total", "Messages moved to the dead-letter stream.", "reason"),
    gauge("oona.dead_letter.depth", "1", "Messages in the dead-letter stream."),
    counter("oona.trimmed_unread_total", "Messages trimmed before a group had handled them.", "stream"),
    gauge("oona.backpressure.active", "1", "1 while back-pressure refuses messages.", "stream"),
    gauge("oona.emergency.tokens", "1", "Tokens left for HIGH messages.", "source"),
    counter("oona.emergency.messages_total", "Messages on the emergency stream.", "source", "priority"),
    counter("oona.emergency.rate_limited_total", "HIGH messages refused by the token bucket.", "source"),
    gauge("oona.spill.records", "1", "Messages that wait in the local journal while Redis is away."),
    gauge("oona.redis.up", "1", "1 while Redis answers."),
    gauge("oona.breaker.state", "1", "State of a breaker: 1 closed, 2 open, 3 half open.", "breaker"),
    gauge("oona.subscribers", "1", "Subscribe streams that are open."),
)
