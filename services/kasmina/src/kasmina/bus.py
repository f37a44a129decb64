"""Kasmina's place on the bus: telemetry and prefetches out, news of kernels in."""

from __future__ import annotations

import asyncio

from esper_core import leyline
from esper_core.bus import Bus, BusClient, Received
from esper_core.errors import UnavailableError
from esper_core.logs import get_logger
from esper_core.security import Keyring
from esper_core.telemetry import Instruments, TelemetryEmitter
from kasmina.settings import KasminaSettings
from kasmina.supply import KernelSupply

NEWS = (leyline.BUS_MESSAGE_TYPE_KERNEL_READY, leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR)
_log = get_logger("bus")


class BusPlace:
    """What Kasmina says and hears on the bus. Without a bus its events go to the log and prefetches are refused.

    Parameters
    ----------
    bus : Bus or None
        The client; None where no broker is configured.
    """

    def __init__(self, bus: Bus | None) -> None:
        self._bus = bus

    @classmethod
    def from_settings(cls, settings: KasminaSettings, keyring: Keyring, instruments: Instruments) -> BusPlace:
        """Open the place that the settings name."""
        if settings.oona_address is None:
            _log.warning("no bus is configured", variable="ESPER_OONA_ADDRESS")
            return cls(None)
        return cls(BusClient(settings.oona_address, "kasmina", keyring, instruments=instruments))

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

    async def publish_prefetch(self, request: leyline.KernelPrefetchRequest) -> None:
        """Hand on a prefetch; returns when it is durable.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        if self._bus is None:
            raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS to have kernels made on request.")
        message_type = leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST
        await self._bus.publish(
            message_type, request, leyline.MESSAGE_PRIORITY_NORMAL, message_id=request.request_id, timeout_s=5.0
        )

    async def consume(self, kernels: KernelSupply) -> None:
        """Take news of kernels until cancelled; news that comes twice changes nothing."""
        if self._bus is None:
            await asyncio.Event().wait()
            return

        async def handle(received: Received) -> None:
            if isinstance(received.message, leyline.KernelReady):
                kernels.ready(received.message)
            else:
                kernels.failed(received.message)

        await self._bus.consume(NEWS, group="kasmina", handler=handle)

    async def close(self) -> None:
        """Let go of the bus."""
        if self._bus is not None:
            await self._bus.close()
