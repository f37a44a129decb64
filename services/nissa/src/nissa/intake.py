"""Takes in what comes over the bus: metrics to the board, everything that happened to the history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from esper_core import leyline
from esper_core.clocks import from_timestamp
from esper_core.telemetry import Instruments, definition_of
from nissa.board import MetricBoard
from nissa.entries import Entry, entries_of
from nissa.history import History

INTERESTS: Final = (
    leyline.BUS_MESSAGE_TYPE_TELEMETRY,
    leyline.BUS_MESSAGE_TYPE_RUN_EVENT,
    leyline.BUS_MESSAGE_TYPE_FIELD_REPORT,
    leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL,
    leyline.BUS_MESSAGE_TYPE_KERNEL_READY,
    leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR,
)
"""What Nissa takes off the bus."""


class ReportCounter(Collector):
    """Field reports by outcome, counted from the history so that a restart forgets none and doubles none.

    Parameters
    ----------
    history : History
        Where the reports are kept.
    """

    def __init__(self, history: History) -> None:
        self._counts = history.count_by("field_report", "outcome")

    def add(self, entry: Entry) -> None:
        """Count a report that is new."""
        outcome = dict(entry.attributes)["outcome"]
        self._counts[outcome] = self._counts.get(outcome, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Yield `esper_field_reports_total`."""
        definition = definition_of("nissa.field_reports_total")
        family = CounterMetricFamily(definition.prometheus_name, definition.help, labels=definition.labels)
        for outcome, count in sorted(self._counts.items()):
            family.add_metric([outcome], count)
        yield family


@dataclass(slots=True)
class Intake:
    """The entrance of Nissa.

    Parameters
    ----------
    history : History
        Keeps entries.
    board : MetricBoard
        Keeps metric values.
    reports : ReportCounter
        Counts field reports.
    instruments : Instruments
        Nissa's own metrics.
    """

    history: History
    board: MetricBoard
    reports: ReportCounter
    instruments: Instruments
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: Message, source: str) -> int:
        """Take in one message and return how many entries it added; taking it in again adds none.

        Parameters
        ----------
        message : Message
            A Leyline message whose envelope was verified.
        source : str
            Service that published it.
        """
        if isinstance(message, leyline.TelemetryPacket):
            self._take_metrics(message)
        added = await asyncio.to_thread(self.history.add, list(entries_of(message, source)))
        for entry in added:
            self._count(entry)
        if added:
            self.ring()
        return len(added)

    def next_news(self) -> asyncio.Event:
        """Return the event of the next new entry; take it before looking, so that none is missed."""
        return self._news

    def ring(self) -> None:
        """Wake everybody who waits for new entries."""
        self._news.set()
        self._news = asyncio.Event()

    def _take_metrics(self, packet: leyline.TelemetryPacket) -> None:
        self.instruments.count("nissa.packets_total", source=packet.source)
        at = from_timestamp(packet.timestamp)
        for point in packet.metrics:
            if not self.board.put(point.name, packet.source, dict(point.attributes), point.value, at):
                self.instruments.count("nissa.packets_rejected_total", reason="unknown_metric_or_too_many_series")

    def _count(self, entry: Entry) -> None:
        self.instruments.count("nissa.events_stored_total")
        if entry.name == "field_report":
            self.reports.add(entry)
        elif entry.name == "emergency":
            self.instruments.count(
                "nissa.emergencies_total", level=dict(entry.attributes)["level"], origin=entry.source
            )
