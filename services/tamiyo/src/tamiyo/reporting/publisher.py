"""Hands field reports to the bus: journal first, then publish, then acknowledge in the journal.

A report that the bus does not take is tried again with growing waits. After the last retry it leaves the queue with an
event; the journal keeps it, and it is published again after the next report that the bus takes, or at the next start.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from tamiyo.group_commit import GroupCommit
from tamiyo.reporting.ledger import ReportLedger, encode_acknowledgement, encode_report
from tamiyo.telemetry import ERROR, WARNING, Telemetry

Publish = Callable[[leyline.FieldReport], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class RetryRules:
    """Waits of `first_s * factor**n` after the n-th failure, at most `retries` of them."""

    first_s: float = 1.0
    factor: float = 2.0
    retries: int = 3

    def wait_s(self, failures: int) -> float:
        """Return the wait after that many failures, at least 1."""
        return self.first_s * self.factor ** (failures - 1)


@dataclass(order=True, slots=True)
class _Item:
    due_s: float
    order: int
    report: leyline.FieldReport = field(compare=False)
    failures: int = field(compare=False, default=0)
    written: asyncio.Future[None] | None = field(compare=False, default=None)


class ReportPublisher:
    """Owns the way of a report from its window to the bus."""

    def __init__(
        self,
        ledger: ReportLedger,
        commits: GroupCommit,
        publish: Publish,
        telemetry: Telemetry,
        rules: RetryRules,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ledger = ledger
        self._commits = commits
        self._publish = publish
        self._telemetry = telemetry
        self._rules = rules
        self._clock = clock
        self._queue: list[_Item] = []
        self._order = count()
        self._dropped: list[leyline.FieldReport] = []
        self._rung = asyncio.Event()

    @property
    def backlog(self) -> int:
        """Reports that wait to be published."""
        return len(self._queue)

    def republish(self) -> None:
        """Queue what earlier starts could not hand over."""
        for report in self._ledger.unacknowledged():
            self._push(_Item(self._clock.monotonic(), next(self._order), report))

    def take(self, reports: list[leyline.FieldReport]) -> None:
        """Queue reports for disk and bus; a report whose command has one already is left out."""
        for report in reports:
            if not self._ledger.add(report):
                continue
            item = _Item(self._clock.monotonic(), next(self._order), report)
            try:
                item.written = self._commits.put(encode_report(report))
            except EsperError as error:
                self._telemetry.event("field_report_not_journalled", ERROR, error.message, report.training_run_id)
            self._push(item)

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wait()
            while self._queue and self._queue[0].due_s <= self._clock.monotonic():
                await self._send(heapq.heappop(self._queue))

    async def _wait(self) -> None:
        self._rung.clear()
        if self._queue:
            pause_s = max(0.0, self._queue[0].due_s - self._clock.monotonic())
            try:
                async with asyncio.timeout(pause_s):
                    await self._rung.wait()
            except TimeoutError:
                return
        else:
            await self._rung.wait()

    async def _send(self, item: _Item) -> None:
        report = item.report
        await self._on_disk(item)
        try:
            await self._publish(report)
        except EsperError as error:
            self._failed(item, error)
            return
        self._telemetry.count("tamiyo.field_reports.published_total")
        self._requeue_dropped()
        self._ledger.acknowledge(report.report_id)
        try:
            await self._commits.put(encode_acknowledgement(report.report_id))
        except EsperError as error:
            self._telemetry.event("field_report_not_journalled", ERROR, error.message, report.training_run_id)

    async def _on_disk(self, item: _Item) -> None:
        """Wait until a report is on disk; one that the disk refuses is told and published all the same."""
        if item.written is None:
            return
        try:
            await item.written
        except EsperError as error:
            self._telemetry.event("field_report_not_journalled", ERROR, error.message, item.report.training_run_id)
        item.written = None

    def _failed(self, item: _Item, error: EsperError) -> None:
        report, failures = item.report, item.failures + 1
        if failures > self._rules.retries:
            self._dropped.append(report)
            self._telemetry.count("tamiyo.field_reports.dropped_total")
            sentence = f"Report {report.report_id} stays in the journal only after {failures} tries: {error.message}"
            self._telemetry.event("field_report_dropped", ERROR, sentence, report.training_run_id)
            return
        self._telemetry.count("tamiyo.field_reports.retries_total")
        due_s = self._clock.monotonic() + self._rules.wait_s(failures)
        sentence = f"Report {report.report_id} could not be published and is tried again: {error.message}"
        self._telemetry.event("field_report_retry", WARNING, sentence, report.training_run_id)
        self._push(_Item(due_s, next(self._order), report, failures))

    def _requeue_dropped(self) -> None:
        """Try again what was given up, now that the bus takes reports."""
        dropped, self._dropped = self._dropped, []
        for report in dropped:
            self._push(_Item(self._clock.monotonic(), next(self._order), report))

    def _push(self, item: _Item) -> None:
        heapq.heappush(self._queue, item)
        self._telemetry.instruments.gauge("tamiyo.field_reports.retry_backlog_total", len(self._queue))
        self._rung.set()
