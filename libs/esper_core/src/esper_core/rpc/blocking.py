"""A blocking channel with the same rules, for the command line and other plain programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from prometheus_client import REGISTRY, CollectorRegistry

from esper_core.rpc.metrics import MethodName
from esper_core.rpc.network import TlsFiles
from esper_core.rpc.options import DEFAULT_UNARY_DEADLINE_S, channel_options
from esper_core.rpc.outgoing import Authorizer, Outgoing


def blocking_channel(
    address: str,
    token_source: Authorizer | None,
    service_identity: str,
    tls: TlsFiles | None = None,
    *,
    default_deadline_s: float = DEFAULT_UNARY_DEADLINE_S,
    registry: CollectorRegistry = REGISTRY,
) -> grpc.Channel:
    """Open a blocking channel; parameters as of `open_channel`. Wrap calls in `mapped_errors` for Esper's errors."""
    options = channel_options(f"esper-{service_identity}")
    if tls is None:
        plain = grpc.insecure_channel(address, options=options)
    else:
        plain = grpc.secure_channel(address, tls.channel_credentials(), options=options)
    return grpc.intercept_channel(plain, _Rules(Outgoing(token_source, default_deadline_s, registry)))


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Rules(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds token and deadline; metrics of a short-lived command would be scraped by nobody."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def _call(self, proceed: Callable[..., Any], details: Any, request: Any, many_in: bool, many_out: bool) -> Any:
        name = MethodName.of(details.method, request_streaming=many_in, response_streaming=many_out)
        changed = _CallDetails(
            details.method,
            self._outgoing.timeout(name, details.timeout),
            self._outgoing.metadata(details.metadata, None),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return proceed(changed, request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, request, False, False)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, request, False, True)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._call(continuation, client_call_details, request_iterator, True, False)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._call(continuation, client_call_details, request_iterator, True, True)
