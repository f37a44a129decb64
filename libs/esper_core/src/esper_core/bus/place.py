"""A service's place on the bus, which may be a place without a bus."""

from __future__ import annotations

from typing import Final, Self

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.bus.bus import Bus
from esper_core.bus.client import BusClient
from esper_core.errors import UnavailableError
from esper_core.logs import get_logger
from esper_core.security import Keyring
from esper_core.telemetry import Instruments, TelemetryEmitter

PUBLISH_TIMEOUT_S: Final = 5.0
_log = get_logger("bus")


class BusPlace:
    """What a service says on the bus. Without a bus its events go to the log, and everything else is refused.

    Parameters
    ----------
    bus : Bus or None
        The client; None where no broker is configured.
    """

    def __init__(self, bus: Bus | None) -> None:
        self._bus = bus

    @classmethod
    def at(cls, oona_address: str | None, source: str, keyring: Keyring, instruments: Instruments) -> Self:
        """Open the place of a service at the broker's address, or a place without a bus where there is none."""
        if oona_address is None:
            _log.warning("no bus is configured", variable="ESPER_OONA_ADDRESS")
            return cls(None)
        return cls(BusClient(oona_address, source, keyring, instruments=instruments))

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
        """Ask for a kernel; returns when the request is durable.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        await self._publish(leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST, request, request.request_id)

    async def close(self) -> None:
        """Let go of the bus."""
        if self._bus is not None:
            await self._bus.close()

    async def _publish(self, message_type: int, message: Message, message_id: str) -> None:
        if self._bus is None:
            raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS and start again.")
        priority = leyline.MESSAGE_PRIORITY_NORMAL
        await self._bus.publish(message_type, message, priority, message_id=message_id, timeout_s=PUBLISH_TIMEOUT_S)
