"""The client that services use."""

from __future__ import annotations

from esper_core.bus.bus import Bus
from esper_core.bus.grpc_link import GrpcLink
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.rpc import TlsFiles
from esper_core.security import Keyring
from esper_core.telemetry import Instruments


class BusClient(Bus):
    """The bus through Oona.

    Parameters
    ----------
    address : str
        `host:port` of Oona.
    source : str
        Service that publishes and consumes.
    keyring : Keyring
        Signs envelopes and mints tokens.
    buffer : int
        Most messages that wait while Oona or Redis is away; CRITICAL ones have further room.
    tls : TlsFiles, optional
        Certificates; those that the environment names by default.
    instruments : Instruments, optional
        The process's instruments, for the `bus.*` metrics.
    clock : Clock
        Source of time.

    Examples
    --------
    >>> bus = BusClient(settings.peer("oona"), "urabrask", keyring)
    >>> emitter = TelemetryEmitter("urabrask", bus.publish_telemetry)
    >>> bus.report_to(emitter)
    >>> host.run_in_background(
    ...     "prefetch requests",
    ...     lambda: bus.consume([leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST], group="urabrask", handler=handle),
    ... )
    >>> host.on_shutdown(bus.close)
    """

    def __init__(
        self,
        address: str,
        source: str,
        keyring: Keyring,
        *,
        buffer: int = 4096,
        tls: TlsFiles | None = None,
        instruments: Instruments | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        link = GrpcLink(address, source, keyring, tls)
        super().__init__(link, source, keyring, buffer=buffer, instruments=instruments, clock=clock)
