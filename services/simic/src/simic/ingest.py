"""Takes field reports off the bus: stored first, acknowledged then."""

from __future__ import annotations

import asyncio

from esper_core import leyline
from esper_core.bus import Bus, Received
from esper_core.telemetry import Instruments
from simic.replay import ReplayStore

GROUP = "simic"


class ReportIngest:
    """Consumes field reports.

    Parameters
    ----------
    bus : Bus
        Where they come from.
    replay : ReplayStore
        Where they go.
    instruments : Instruments
        Simic's metrics.
    """

    def __init__(self, bus: Bus, replay: ReplayStore, instruments: Instruments) -> None:
        self._bus = bus
        self._replay = replay
        self._instruments = instruments

    async def run(self) -> None:
        """Consume until cancelled."""
        await self._bus.consume([leyline.BUS_MESSAGE_TYPE_FIELD_REPORT], group=GROUP, handler=self.take)

    async def take(self, received: Received) -> None:
        """Store one report; a delivery that came before changes nothing."""
        added = await asyncio.to_thread(self._replay.add, received.message)
        self._instruments.count(
            "simic.field_reports.ingested_total" if added else "simic.field_reports.duplicates_total"
        )
        self._instruments.gauge("simic.replay.size", await asyncio.to_thread(self._replay.count))
