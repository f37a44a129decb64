"""Typed settings: one class per service, resolved once with `load`, frozen, printed redacted."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from esper_core.settings.base import EsperSettings, load, unknown_variables, variable_of
from esper_core.settings.redaction import redact, redact_text
from esper_core.settings.service import (
    SERVICE_NAMES,
    HostPort,
    LogLevel,
    PeerSettings,
    ServiceSettings,
    peer_address,
    split_host_port,
)

__all__ = [
    "SERVICE_NAMES",
    "EsperSettings",
    "Field",
    "HostPort",
    "LogLevel",
    "PeerSettings",
    "SecretStr",
    "ServiceSettings",
    "SettingsConfigDict",
    "load",
    "peer_address",
    "redact",
    "redact_text",
    "split_host_port",
    "unknown_variables",
    "variable_of",
]
