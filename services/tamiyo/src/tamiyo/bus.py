"""Tamiyo's place on the bus: telemetry, field reports and kernel prefetches out."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from esper_core.bus import Bus, BusClient
from esper_core.errors import UnavailableError
from esper_core.logs import get_logger
from esper_core.security import Keyring
from esper_core.telemetry import Instruments, TelemetryEmitter
from tamiyo.settings import TamiyoSettings

TIMEOUT_S: Final = 5.0
_log = get_logger("bus")


class BusPlace:
    """What Tamiyo says on the bus. Without a bus its events go to the log, and reports stay in the journal.

    Parameters
    ----------
    bus : Bus or None
        The client; None where no broker is configured.
    """

    def __init__(self, bus: Bus | None) -> None:
        self._bus = bus

    @classmethod
    def from_settings(cls, settings: TamiyoSettings, keyring: Keyring, instruments: Instruments) -> BusPlace:
        """Open the place that the settings name."""
        if settings.oona_address is None:
            _log.warning("no bus is configured", variable="ESPER_OONA_ADDRESS")
            return cls(None)
        return cls(BusClient(settings.oona_address, "tamiyo", keyring, instruments=instruments))

    def report_to(self, emitter: TelemetryEmitter) -> None:
        """Tell events about the bus itself."""
        if self._bus is not None:
            self._bus.report_to(emitter)

    async def publish_telemetry(self, packet: leyline.TelemetryPacket) -> None:
        """Hand on a packet.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        if self._bus is not None:
            await self._bus.publish_telemetry(packet)
            return
        for event in packet.events:
            _log.info(event.name, description=event.description, attributes=dict(event.attributes))

    async def publish_report(self, report: leyline.FieldReport) -> None:
        """Hand on a field report; returns when it is durable. The same report twice is stored once.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        await self._required().publish(
            leyline.BUS_MESSAGE_TYPE_FIELD_REPORT,
            report,
            leyline.MESSAGE_PRIORITY_NORMAL,
            message_id=report.report_id,
            timeout_s=TIMEOUT_S,
        )

    async def publish_prefetch(self, request: leyline.KernelPrefetchRequest) -> None:
        """Ask for a kernel; returns when the request is durable.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        await self._required().publish(
            leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST,
            request,
            leyline.MESSAGE_PRIORITY_NORMAL,
            message_id=request.request_id,
            timeout_s=TIMEOUT_S,
        )

    async def close(self) -> None:
        """Let go of the bus."""
        if self._bus is not None:
            await self._bus.close()

    def _required(self) -> Bus:
        if self._bus is None:
            raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS.")
        return self._bus
