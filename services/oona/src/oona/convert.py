"""Between the broker's own objects and its messages."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from esper_core.errors import EsperError
from esper_core.pb.esper.oona.v1 import oona_pb2
from oona.backlog import StreamState
from oona.entries import Letter


def refusal_receipt(message_id: str, error: EsperError) -> oona_pb2.PublishReceipt:
    """Return the receipt of an envelope that was not let in."""
    retry_ms = max(1, int((error.retry_after_s or 0.5) * 1000)) if error.retryable else 0
    return oona_pb2.PublishReceipt(
        message_id=message_id, error_code=error.code, message=error.message, retry_after_ms=retry_ms
    )


def to_stream_info(state: StreamState, *, back_pressure: bool) -> oona_pb2.StreamInfo:
    """Describe a stream."""
    groups = [
        oona_pb2.GroupInfo(name=group.name, pending=group.pending, lag=group.lag, consumers=group.consumers)
        for group in state.groups
    ]
    return oona_pb2.StreamInfo(
        name=state.name,
        logical_name=state.logical,
        length=state.length,
        groups=groups,
        back_pressure=back_pressure,
    )


def to_dead_letter(letter: Letter) -> oona_pb2.DeadLetter:
    """Describe a dead letter."""
    failed_at = Timestamp()
    failed_at.FromMilliseconds(letter.failed_at_ms)
    return oona_pb2.DeadLetter(
        entry_id=letter.entry.entry_id,
        stream=letter.stream,
        group=letter.group,
        attempts=letter.entry.failures,
        reason=letter.reason,
        failed_at=failed_at,
        envelope=letter.entry.envelope,
    )
