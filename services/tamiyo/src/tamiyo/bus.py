"""Tamiyo's place on the bus: telemetry, field reports and kernel prefetches out."""

from __future__ import annotations

from esper_core import leyline
from esper_core.bus import BusPlace


class TamiyoPlace(BusPlace):
    """What Tamiyo says on the bus; where there is none, field reports stay in the journal."""

    async def publish_report(self, report: leyline.FieldReport) -> None:
        """Hand on a field report; returns when it is durable. The same report twice is stored once.

        Raises
        ------
        EsperError
            If the bus does not take it.
        """
        await self._publish(leyline.BUS_MESSAGE_TYPE_FIELD_REPORT, report, report.report_id)
