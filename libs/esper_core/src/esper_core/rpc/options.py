"""Options of every channel and every server, in one place, so that the two sides always agree.

gRPC answers a client that pings more often than its server allows with GOAWAY; keeping both numbers in one module is
what prevents it.
"""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default, stated: whatever is larger is a file and travels in chunks."""

CHUNK_BYTES: Final = 1024 * 1024
"""Size of one chunk of a chunked transfer: a quarter of the message limit leaves room for the fields beside it."""

DEFAULT_UNARY_DEADLINE_S: Final = 10.0
"""Deadline a client sets when its caller names none: long for a person, short for a queue of waiting calls."""

MAX_UNARY_S: Final = 60.0
"""Longest a server works on one unary call, whatever the client allows: longer work is a job with an id."""

KEEPALIVE_TIME_S: Final = 20.0
"""A silent connection is pinged this often, so that a vanished peer is noticed within half a minute."""

KEEPALIVE_TIMEOUT_S: Final = 10.0
"""A ping unanswered for this long ends the connection; a busy Python process may well pause for some seconds."""

MIN_PING_INTERVAL_S: Final = 10.0
"""What a server tolerates: half the ping interval, so that timer jitter never looks like abuse."""

MAX_METADATA_BYTES: Final = 32 * 1024
"""Room for a token, a trace context and the details of an error with all its field names."""

Options = list[tuple[str, int | str]]


def _common() -> Options:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        # The Advise and Execute streams may be silent for minutes while training is paused: ping without calls, too.
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this a silent stream gets two pings and then none, and a dead peer behind it is never noticed.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(*, channelz: bool = False) -> Options:
    """Return the options of a server."""
    return [
        *_common(),
        ("grpc.http2.min_ping_interval_without_data_ms", int(MIN_PING_INTERVAL_S * 1000)),
        # The name under which gRPC's server reads what it tolerates from clients.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(MIN_PING_INTERVAL_S * 1000)),
        # Linux would let two processes share the port and split the calls between them: a taken port must be an error.
        ("grpc.so_reuseport", 0),
        # Costs a little memory per connection, so it is kept only for those who ask.
        ("grpc.enable_channelz", int(channelz)),
    ]


def channel_options(user_agent: str) -> Options:
    """Return the options of a channel; `user_agent` names the calling service in the peer's traces."""
    return [
        *_common(),
        # A restarted peer is back within a second or two: start early, and never wait longer than its health gate.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # A proxy from the environment would catch calls between services of one stack.
        ("grpc.enable_http_proxy", 0),
        ("grpc.primary_user_agent", user_agent),
    ]
