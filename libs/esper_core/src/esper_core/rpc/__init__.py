"""RPC: one server host, one channel factory, one mapping of errors, the same options on both sides."""

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
