"""The settings that every service shares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from esper_core.errors import SettingsError
from esper_core.settings.base import EsperSettings

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
SERVICE_NAMES: Final = (
    "oona", "urza", "urabrask", "kasmina", "tamiyo", "tolaria", "simic", "nissa", "weatherlight"
)  # fmt: skip
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+):(\d{1,5})")


def _host_port(value: str) -> str:
    match = _HOST_PORT.fullmatch(value)
    if not match or int(match.group(2)) > 65535:
        raise ValueError("it must be host:port, for example 127.0.0.1:50051")
    return value


HostPort = Annotated[str, AfterValidator(_host_port)]
"""Text `host:port`; port 0 lets the system choose, IPv6 hosts stand in brackets."""


def split_host_port(address: str) -> tuple[str, int]:
    """Split a checked `host:port`; brackets of an IPv6 host are removed."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def peer_address(name: str, **kwargs: Any) -> Any:
    """Declare the address of a peer, filled by `ESPER_<NAME>_ADDRESS`."""
    return Field(
        validation_alias=f"ESPER_{name.upper()}_ADDRESS", description=f"Address of {name}, host:port.", **kwargs
    )


class PeerSettings(EsperSettings):
    """Where the other services are; a class names those that it cannot do without in `required_peers`."""

    required_peers: ClassVar[tuple[str, ...]] = ()

    oona_address: HostPort | None = peer_address("oona", default=None)
    urza_address: HostPort | None = peer_address("urza", default=None)
    urabrask_address: HostPort | None = peer_address("urabrask", default=None)
    kasmina_address: HostPort | None = peer_address("kasmina", default=None)
    tamiyo_address: HostPort | None = peer_address("tamiyo", default=None)
    tolaria_address: HostPort | None = peer_address("tolaria", default=None)
    simic_address: HostPort | None = peer_address("simic", default=None)
    nissa_address: HostPort | None = peer_address("nissa", default=None)
    weatherlight_address: HostPort | None = peer_address("weatherlight", default=None)

    def peer(self, name: str) -> str:
        """Return the address of a peer.

        Raises
        ------
        SettingsError
            If it is not configured; the message names the variable.
        """
        address: str | None = getattr(self, f"{name}_address")
        if address is None:
            variable = f"ESPER_{name.upper()}_ADDRESS"
            raise SettingsError(f"{variable} is not set. Set it to the host:port of {name}.", variable=variable)
        return address

    @model_validator(mode="after")
    def _require_peers(self) -> PeerSettings:
        for name in self.required_peers:
            self.peer(name)
        return self


class ServiceSettings(PeerSettings):
    """Base of a service's settings; the subclass adds its prefix and its own fields."""

    listen: HostPort = Field(description="Where the gRPC server listens, host:port.")
    metrics_listen: HostPort = Field(description="Where Prometheus metrics are served over HTTP, host:port.")
    data_dir: Path = Field(description="Folder for everything the service keeps.")
    log_level: LogLevel = Field(default="INFO", description="Lowest level that is logged.")
    keyring_file: Path = Field(
        validation_alias="ESPER_KEYRING_FILE",
        description="JSON file with the signing keys, mode 0600; the same on every service.",
    )
