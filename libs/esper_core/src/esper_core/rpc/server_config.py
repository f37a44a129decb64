"""What can be chosen about a server."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.rpc.network import NetworkSettings, TlsFiles
from esper_core.rpc.options import MAX_UNARY_S
from esper_core.settings import ServiceSettings, load


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Choices of a `ServerHost`.

    Attributes
    ----------
    metrics_listen : str
        `host:port` of Prometheus metrics over HTTP; "" serves none.
    tls : TlsFiles or None
        Certificates of mutual TLS.
    insecure_network : bool
        The operator vouches for the network: listen beyond loopback without TLS.
    channelz : bool
        Serve channelz.
    shutdown_grace_s : float
        Time for unary calls in flight after SIGTERM.
    stream_grace_s : float
        Time for streams to end by themselves at a drain (servicers watch `host.draining`).
    hook_timeout_s : float
        Time for each shutdown hook.
    max_unary_s : float
        Longest time of one unary call.
    """

    metrics_listen: str = ""
    tls: TlsFiles | None = None
    insecure_network: bool = False
    channelz: bool = False
    shutdown_grace_s: float = 5.0
    stream_grace_s: float = 1.0
    hook_timeout_s: float = 10.0
    max_unary_s: float = MAX_UNARY_S

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> ServerConfig:
        """Combine a service's settings with the network settings that the whole stack shares."""
        network = load(NetworkSettings)
        return cls(
            metrics_listen=settings.metrics_listen,
            tls=network.tls(),
            insecure_network=network.insecure_network,
            channelz=network.channelz,
            shutdown_grace_s=network.shutdown_grace_s,
        )
