"""Where a server may listen and how a connection is protected: addresses, certificate files, the shared settings."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc

from esper_core.errors import ConfigurationError, StorageError
from esper_core.settings import EsperSettings, Field, split_host_port


class NetworkSettings(EsperSettings):
    """Settings of the RPC layer, the same for every process of a stack."""

    insecure_network: bool = Field(
        default=False,
        validation_alias="ESPER_INSECURE_NETWORK",
        description="Allow servers without TLS beyond loopback; only for a private network, such as that of compose.",
    )
    tls_cert_file: Path | None = Field(
        default=None, validation_alias="ESPER_TLS_CERT_FILE", description="PEM certificate chain of this process."
    )
    tls_key_file: Path | None = Field(
        default=None, validation_alias="ESPER_TLS_KEY_FILE", description="PEM private key of this process."
    )
    tls_ca_file: Path | None = Field(
        default=None,
        validation_alias="ESPER_TLS_CA_FILE",
        description="PEM certificates of the authority that signed the peers' certificates.",
    )
    channelz: bool = Field(
        default=False, validation_alias="ESPER_CHANNELZ", description="Serve channelz for debugging connections."
    )
    shutdown_grace_s: float = Field(
        default=5.0,
        ge=0.0,
        le=600.0,
        validation_alias="ESPER_SHUTDOWN_GRACE_S",
        description="Seconds that calls in flight get to finish after SIGTERM.",
    )

    def tls(self) -> TlsFiles | None:
        """Return the certificate files, or None where TLS is off.

        Raises
        ------
        ConfigurationError
            If only some of the three files are named.
        """
        files = (self.tls_cert_file, self.tls_key_file, self.tls_ca_file)
        if not any(files):
            return None
        cert, key, authority = files
        if cert is None or key is None or authority is None:
            raise ConfigurationError(
                "TLS needs ESPER_TLS_CERT_FILE, ESPER_TLS_KEY_FILE and ESPER_TLS_CA_FILE together. "
                "Set all three, or none."
            )
        return TlsFiles(cert, key, authority)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of mutual TLS: both sides show a certificate signed by the same authority."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that demand a client certificate."""
        pair = (_pem(self.key_file), _pem(self.cert_file))
        return grpc.ssl_server_credentials([pair], root_certificates=_pem(self.ca_file), require_client_auth=True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials that show this process's certificate."""
        return grpc.ssl_channel_credentials(_pem(self.ca_file), _pem(self.key_file), _pem(self.cert_file))


def is_loopback(address: str) -> bool:
    """Tell whether `host:port` is reachable from this machine only."""
    host, _ = split_host_port(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_protected(address: str, tls: TlsFiles | None, *, insecure_network: bool) -> None:
    """Refuse a plaintext server beyond loopback unless the operator vouches for the network.

    Raises
    ------
    ConfigurationError
        If the address is open to others and neither TLS nor the setting is given.
    """
    if tls is None and not insecure_network and not is_loopback(address):
        raise ConfigurationError(
            f"{address} is reachable from other machines, and TLS is off. Listen on 127.0.0.1, set the "
            "ESPER_TLS_*_FILE variables, or set ESPER_INSECURE_NETWORK=true on a private network."
        )


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError.from_os_error(error, path, "read the certificate file") from error
