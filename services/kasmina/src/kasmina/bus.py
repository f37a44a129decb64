"""Kasmina's place on the bus: telemetry and prefetches out, news of kernels in."""

from __future__ import annotations

import asyncio

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.security.keyring import Keyring
from kasmina.settings import KasminaSettings
from kasmina.supply import KernelSupply


class BusLink:
    """The link to the bus."""

    @classmethod
    def from_settings(cls, settings: KasminaSettings, keyring: Keyring) -> BusLink:
        """Open the link that the settings name."""
        return cls()

    async def publish_telemetry(self, packet: leyline.TelemetryPacket) -> None:
        """Hand on a packet."""
        raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS.")

    async def publish_prefetch(self, request: leyline.KernelPrefetchRequest) -> None:
        """Hand on a prefetch."""
        raise UnavailableError("No bus is configured. Set ESPER_OONA_ADDRESS.")

    async def consume(self, kernels: KernelSupply) -> None:
        """Take news of kernels until cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Let go of the bus."""
