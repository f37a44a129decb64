"""Tamiyo's place on the bus: telemetry and field reports out."""

from __future__ import annotations

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.security import Keyring
from tamiyo.settings import TamiyoSettings


class BusLink:
    """The link to the bus."""

    @classmethod
    def from_settings(cls, settings: TamiyoSettings, keyring: Keyring) -> BusLink:
        """Open the link that the settings name."""
        return cls()

    async def publish_telemetry(self, packet: leyline.TelemetryPacket) -> None:
        """Hand on a packet.

        Raises
        ------
        UnavailableError
            If there is no bus.
        """
        raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS.")

    async def publish_report(self, report: leyline.FieldReport) -> None:
        """Hand on a field report.

        Raises
        ------
        UnavailableError
            If there is no bus.
        """
        raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS.")

    async def close(self) -> None:
        """Let go of the bus."""
