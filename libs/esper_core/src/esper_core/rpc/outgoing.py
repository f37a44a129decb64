"""What every outgoing call gets: a token, a deadline, metrics, a trace context."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from opentelemetry import propagate, trace
from prometheus_client import REGISTRY, CollectorRegistry

from esper_core.rpc.metrics import MethodMetrics, MethodName, message_sizes, rpc_metrics
from esper_core.rpc.options import DEFAULT_UNARY_DEADLINE_S

Metadata = tuple[tuple[str, str | bytes], ...]


class Authorizer(Protocol):
    """Gives the value of the `authorization` metadata; `security.tokens.TokenSource` is one."""

    def authorization(self) -> str:
        """Return `Bearer <token>`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token from outside: `esper token`, an environment variable."""

    token: str

    def authorization(self) -> str:
        """Return the token as metadata."""
        return f"Bearer {self.token}"


class Outgoing:
    """The rules of one channel, shared by its calls, blocking or not."""

    def __init__(
        self,
        token_source: Authorizer | None,
        default_deadline_s: float = DEFAULT_UNARY_DEADLINE_S,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._token_source = token_source
        self._default_deadline_s = default_deadline_s
        self._counters = rpc_metrics("client", registry)
        self._sizes = message_sizes(registry)

    def metrics(self, name: MethodName) -> MethodMetrics:
        """Return the metrics of a method."""
        return self._counters.method(name, self._sizes)

    def timeout(self, name: MethodName, timeout: float | None) -> float | None:
        """Return the caller's deadline, or the default one for a unary call; streams may live for a whole run."""
        return self._default_deadline_s if timeout is None and name.is_unary else timeout

    def metadata(self, own: Sequence[tuple[str, str | bytes]] | None, span: trace.Span | None) -> Metadata:
        """Return the caller's metadata with the token and the trace context added."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span) if span is not None else None)
        if self._token_source is not None:
            carrier["authorization"] = self._token_source.authorization()
        return (*(own or ()), *carrier.items())


TRACER: Final = trace.get_tracer("esper.rpc")


class OutgoingCall:
    """One call from start to end, as metrics and traces see it."""

    __slots__ = ("_metrics", "_started", "span")

    def __init__(self, name: MethodName, metrics: MethodMetrics) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self.span = TRACER.start_span(name.path, kind=trace.SpanKind.CLIENT) if name.is_unary else None
        metrics.started.inc()

    def end(self, code: grpc.StatusCode) -> None:
        """Record the status."""
        self._metrics.ended(code, time.perf_counter() - self._started)
        if self.span is not None:
            self.span.set_attribute("rpc.grpc.status_code", int(code.value[0]))
            self.span.end()


class MultiCallable:
    """A method of a stub: the one of the plain channel, called by the rules of `Outgoing`."""

    __slots__ = ("_inner", "_metrics", "_name", "_outgoing")

    def __init__(self, inner: Callable[..., Any], name: MethodName, outgoing: Outgoing, metrics: MethodMetrics) -> None:
        self._inner = inner
        self._name = name
        self._outgoing = outgoing
        self._metrics = metrics

    def __call__(self, *requests: Any, **options: Any) -> Any:
        """Start the call; arguments and result are those of the plain channel."""
        outgoing = OutgoingCall(self._name, self._metrics)
        options["timeout"] = self._outgoing.timeout(self._name, options.get("timeout"))
        options["metadata"] = self._outgoing.metadata(options.get("metadata"), outgoing.span)
        call = self._inner(*requests, **options)
        call.add_done_callback(lambda done: outgoing.end(_code_of(done)))
        return call


def _code_of(done: Any) -> grpc.StatusCode:
    """Read the status of a finished call, whose `code()` answers without suspending."""
    reading = done.code()
    try:
        reading.send(None)
    except StopIteration as stop:
        code: grpc.StatusCode = stop.value
        return code
    reading.close()
    return grpc.StatusCode.UNKNOWN
