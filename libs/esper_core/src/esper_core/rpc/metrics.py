"""Prometheus metrics of RPC under the names of go-grpc-prometheus, so that its dashboards and alerts work unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

Side = Literal["server", "client"]
_CALL_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BYTES: Final = (64, 128, 280, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)


@dataclass(frozen=True, slots=True)
class MethodName:
    """One method as metrics, rules and spans name it."""

    service: str
    method: str
    kind: Literal["unary", "client_stream", "server_stream", "bidi_stream"]

    @classmethod
    def of(cls, path: str | bytes, *, request_streaming: bool, response_streaming: bool) -> MethodName:
        """Split `/package.Service/Method`."""
        text = path.decode() if isinstance(path, bytes) else path
        service, _, method = text.lstrip("/").rpartition("/")
        if request_streaming:
            return cls(service, method, "bidi_stream" if response_streaming else "client_stream")
        return cls(service, method, "server_stream" if response_streaming else "unary")

    @property
    def path(self) -> str:
        """The method as gRPC writes it, without the leading slash."""
        return f"{self.service}/{self.method}"

    @property
    def is_unary(self) -> bool:
        """Whether it has one request and one response."""
        return self.kind == "unary"


def go_code(code: grpc.StatusCode) -> str:
    """Return a status as Go spells it: `NotFound`, `OK`, and `Canceled` with one l."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


class RpcMetrics:
    """The metrics of one side in one registry; get it with `rpc_metrics`."""

    def __init__(self, side: Side, registry: CollectorRegistry) -> None:
        def counter(event: str, text: str, *more: str) -> Counter:
            return Counter(f"grpc_{side}_{event}", text, (*_CALL_LABELS, *more), registry=registry)

        self.started = counter("started_total", "Calls started.")
        self.handled = counter("handled_total", "Calls ended, by status.", "grpc_code")
        self.received = counter("msg_received_total", "Messages received.")
        self.sent = counter("msg_sent_total", "Messages sent.")
        self.seconds = Histogram(
            f"grpc_{side}_handling_seconds",
            "Time from start to end.",
            _CALL_LABELS,
            registry=registry,
            buckets=_SECONDS,
        )

    def method(self, name: MethodName, sizes: Histogram) -> MethodMetrics:
        """Return the metrics of one method, with its labels filled in once."""
        labels = (name.kind, name.service, name.method)
        return MethodMetrics(
            labels,
            self.started.labels(*labels),
            self.handled,
            self.received.labels(*labels),
            self.sent.labels(*labels),
            self.seconds.labels(*labels),
            sizes,
        )


@dataclass(frozen=True, slots=True)
class MethodMetrics:
    """The metrics of one method."""

    labels: tuple[str, str, str]
    started: Counter
    handled: Counter
    received: Counter
    sent: Counter
    seconds: Histogram
    sizes: Histogram

    def ended(self, code: grpc.StatusCode, seconds: float) -> None:
        """Count the end of a call."""
        self.handled.labels(*self.labels, go_code(code)).inc()
        self.seconds.observe(seconds)

    def sending(self, serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
        """Wrap a serialiser, which gRPC calls once for every message sent."""

        def counted(message: Any) -> bytes:
            data = serialize(message) if serialize is not None else bytes(message)
            self._observe(self.sent, message, data)
            return data

        return counted

    def receiving(self, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """Wrap a deserialiser, which gRPC calls once for every message received."""

        def counted(data: bytes) -> Any:
            message = deserialize(data) if deserialize is not None else data
            self._observe(self.received, message, data)
            return message

        return counted

    def _observe(self, counter: Counter, message: Any, data: bytes) -> None:
        counter.inc()
        descriptor = getattr(message, "DESCRIPTOR", None)
        self.sizes.labels(descriptor.full_name if descriptor is not None else "bytes").observe(len(data))


_lock: Final = Lock()
_known: Final[WeakKeyDictionary[CollectorRegistry, dict[str, Any]]] = WeakKeyDictionary()


def rpc_metrics(side: Side, registry: CollectorRegistry) -> RpcMetrics:
    """Return the one set of metrics of a side in a registry; several servers of a process share it."""
    found: RpcMetrics = _once(registry, side, lambda: RpcMetrics(side, registry))
    return found


def message_sizes(registry: CollectorRegistry) -> Histogram:
    """Return the histogram of message sizes by protobuf type, shared by both sides."""

    def made() -> Histogram:
        text = "Serialised size of messages sent and received."
        return Histogram("leyline_message_size_bytes", text, ("message_type",), registry=registry, buckets=_BYTES)

    found: Histogram = _once(registry, "sizes", made)
    return found


def _once(registry: CollectorRegistry, key: str, make: Callable[[], Any]) -> Any:
    with _lock:
        made = _known.setdefault(registry, {})
        if key not in made:
            made[key] = make()
        return made[key]
