"""RPC: one server host, one channel factory, one mapping of errors, the same options on both sides.

The names below load their modules when they are first used, so that a command that only calls a service does not load
what serves one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper_core.rpc.access import caller
    from esper_core.rpc.blocking import blocking_channel
    from esper_core.rpc.client import EsperChannel, check_health, health_probe, open_channel, tls_from_environment
    from esper_core.rpc.network import NetworkSettings, TlsFiles
    from esper_core.rpc.options import CHUNK_BYTES, MAX_MESSAGE_BYTES
    from esper_core.rpc.outgoing import FixedToken
    from esper_core.rpc.retry import Backoff, retrying
    from esper_core.rpc.rpc_errors import from_rpc_error, mapped_errors
    from esper_core.rpc.server import ServerHost
    from esper_core.rpc.server_config import ServerConfig
    from esper_core.rpc.service_main import run_service

__all__ = [
    "CHUNK_BYTES",
    "MAX_MESSAGE_BYTES",
    "Backoff",
    "EsperChannel",
    "FixedToken",
    "NetworkSettings",
    "ServerConfig",
    "ServerHost",
    "TlsFiles",
    "blocking_channel",
    "caller",
    "check_health",
    "from_rpc_error",
    "health_probe",
    "mapped_errors",
    "open_channel",
    "retrying",
    "run_service",
    "tls_from_environment",
]

_HOMES: Final = {
    "Backoff": "retry",
    "CHUNK_BYTES": "options",
    "EsperChannel": "client",
    "FixedToken": "outgoing",
    "MAX_MESSAGE_BYTES": "options",
    "NetworkSettings": "network",
    "ServerConfig": "server_config",
    "ServerHost": "server",
    "TlsFiles": "network",
    "blocking_channel": "blocking",
    "caller": "access",
    "check_health": "client",
    "from_rpc_error": "rpc_errors",
    "health_probe": "client",
    "mapped_errors": "rpc_errors",
    "open_channel": "client",
    "retrying": "retry",
    "run_service": "service_main",
    "tls_from_environment": "client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
