"""The one factory of channels, and helpers for calls that may be repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY, CollectorRegistry

from esper_core.errors import UnavailableError
from esper_core.rpc.metrics import MethodName
from esper_core.rpc.network import NetworkSettings, TlsFiles
from esper_core.rpc.options import DEFAULT_UNARY_DEADLINE_S, channel_options
from esper_core.rpc.outgoing import Authorizer, MultiCallable, Outgoing
from esper_core.rpc.rpc_errors import mapped_errors
from esper_core.settings import load


def open_channel(
    address: str,
    token_source: Authorizer | None,
    service_identity: str,
    tls: TlsFiles | None = None,
    *,
    default_deadline_s: float = DEFAULT_UNARY_DEADLINE_S,
    registry: CollectorRegistry = REGISTRY,
) -> EsperChannel:
    """Open a channel; it connects at the first call and reconnects by itself.

    Parameters
    ----------
    address : str
        `host:port` of the peer.
    token_source : Authorizer or None
        Where tokens come from; None only for health checks.
    service_identity : str
        Name of the caller, sent as user agent.
    tls : TlsFiles, optional
        Certificates; plaintext without them.
    default_deadline_s : float
        Deadline of unary calls whose caller names none.
    registry : CollectorRegistry
        Where client metrics are registered.
    """
    options = channel_options(f"esper-{service_identity}")
    if tls is None:
        plain = grpc.aio.insecure_channel(address, options=options)
    else:
        plain = grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
    return EsperChannel(plain, Outgoing(token_source, default_deadline_s, registry))


def tls_from_environment() -> TlsFiles | None:
    """Return the certificate files that the shared network settings name."""
    return load(NetworkSettings).tls()


class EsperChannel(grpc.aio.Channel):
    """A grpc.aio channel whose calls carry token, deadline, metrics and trace context.

    It wraps a plain channel instead of using gRPC's client interceptors: those put a queue and two tasks between the
    caller and every stream, which the step path cannot afford.
    """

    def __init__(self, plain: grpc.aio.Channel, outgoing: Outgoing) -> None:
        self._plain = plain
        self._outgoing = outgoing

    def unary_unary(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a method with one request and one response."""
        return self._made(self._plain.unary_unary, method, False, False, *args, **kwargs)

    def unary_stream(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a method with one request and many responses."""
        return self._made(self._plain.unary_stream, method, False, True, *args, **kwargs)

    def stream_unary(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a method with many requests and one response."""
        return self._made(self._plain.stream_unary, method, True, False, *args, **kwargs)

    def stream_stream(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a method with many requests and many responses."""
        return self._made(self._plain.stream_stream, method, True, True, *args, **kwargs)

    def _made(
        self,
        make: Callable[..., Any],
        method: Any,
        many_in: bool,
        many_out: bool,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        **more: Any,
    ) -> MultiCallable:
        name = MethodName.of(method, request_streaming=many_in, response_streaming=many_out)
        metrics = self._outgoing.metrics(name)
        inner = make(
            method,
            request_serializer=metrics.sending(request_serializer),
            response_deserializer=metrics.receiving(response_deserializer),
            **more,
        )
        return MultiCallable(inner, name, self._outgoing, metrics)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls in flight get `grace` seconds."""
        await self._plain.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection."""
        return self._plain.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state differs from the one given."""
        await self._plain.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait for a connection."""
        await self._plain.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


async def check_health(channel: grpc.aio.Channel, service: str = "", *, timeout_s: float = 2.0, peer: str = "") -> None:
    """Ask a peer whether it serves.

    Raises
    ------
    UnavailableError
        If it says NOT_SERVING or cannot be reached.
    """
    stub: Any = health_pb2_grpc.HealthStub(channel)
    with mapped_errors(peer):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise UnavailableError(f"{peer or 'The peer'} says {name}. `esper status` tells what it waits for.")


def health_probe(channel: grpc.aio.Channel, service: str = "", *, peer: str = "") -> Callable[[], Awaitable[None]]:
    """Return a probe for `ServerHost.watch_dependency` that asks a peer's health."""

    async def probe() -> None:
        await check_health(channel, service, peer=peer)

    return probe
