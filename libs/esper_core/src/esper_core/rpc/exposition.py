"""Prometheus metrics over HTTP."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from esper_core.errors import ConfigurationError, PortInUseError
from esper_core.settings import split_host_port


@dataclass(frozen=True, slots=True)
class MetricsEndpoint:
    """A running HTTP endpoint, in a thread of its own so that a scrape never waits for the event loop."""

    server: Any
    thread: Thread

    @classmethod
    def open(cls, address: str, registry: CollectorRegistry) -> MetricsEndpoint:
        """Serve `/metrics` at `host:port`; port 0 lets the system choose.

        Raises
        ------
        PortInUseError
            If another process listens there.
        ConfigurationError
            If the address cannot be used at all.
        """
        host, port = split_host_port(address)
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _port_in_use(address, "metrics") from error
            raise ConfigurationError(f"Cannot serve metrics at {address}: {error.strerror or error}.") from error
        return cls(server, thread)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self.server.server_port)

    def close(self) -> None:
        """Stop serving and join the thread."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def bind_error(address: str, purpose: str) -> PortInUseError | ConfigurationError:
    """Tell a taken port from an address that this machine does not have, by trying to bind once more.

    gRPC itself says only that it failed.
    """
    host, port = split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _port_in_use(address, purpose)
            return ConfigurationError(f"Cannot listen for {purpose} at {address}: {error.strerror or error}.")
    return _port_in_use(address, purpose)


def _port_in_use(address: str, purpose: str) -> PortInUseError:
    return PortInUseError(
        f"Cannot listen for {purpose} at {address}: the port is taken. Stop what listens there, or choose another.",
        details={"address": address},
    )
