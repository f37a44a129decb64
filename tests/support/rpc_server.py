"""A real echo server on the loopback interface, for tests of the RPC layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from esper_core.rpc import EsperChannel, ServerConfig, ServerHost, open_channel
from esper_core.security.keyring import Keyring
from esper_core.security.tokens import Role, TokenSource
from support.rpc_echo import ECHO_SERVICE, EchoServicer, EchoStub, add_echo

CONFIG = ServerConfig(shutdown_grace_s=10.0, stream_grace_s=0.05, max_unary_s=20.0, hook_timeout_s=2.0)


@dataclass
class Running:
    """A running server, its servicer and the means to call it."""

    host: ServerHost
    servicer: EchoServicer
    keyring: Keyring
    registry: CollectorRegistry
    channels: list[EsperChannel] = field(default_factory=list)

    def channel(self, role: Role | None = "service") -> EsperChannel:
        """Open a channel in a role; None sends no token."""
        source = TokenSource(self.keyring, "tester", role) if role else None
        made = open_channel(self.host.address, source, "test", registry=self.registry)
        self.channels.append(made)
        return made

    def stub(self, role: Role | None = "service") -> EchoStub:
        """Return a stub in a role."""
        return EchoStub(self.channel(role))

    async def close(self) -> None:
        """End channels and server."""
        self.servicer.release.set()
        for channel in self.channels:
            await channel.close()
        if self.host.port:
            await self.host.stop()


def build_server(config: ServerConfig = CONFIG, listen: str = "127.0.0.1:0", keyring: Keyring | None = None) -> Running:
    """Build a server that the test starts."""
    keyring = keyring or Keyring.generate()
    registry, servicer = CollectorRegistry(), EchoServicer()
    host = ServerHost("echo", listen, keyring, config, registry)
    host.add(servicer, add_echo, ECHO_SERVICE, read_only_methods=("Many",), service_only_methods=("Joined",))
    return Running(host, servicer, keyring, registry)
