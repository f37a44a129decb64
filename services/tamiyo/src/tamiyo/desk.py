"""Tamiyo as its callers see it: answers packets, keeps windows and reports, explains, obeys the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import NotFoundError
from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2
from tamiyo.advisor import Advisor
from tamiyo.explain import summary_of
from tamiyo.foresight import Foresight
from tamiyo.journal import DecisionIndex, DecisionRecord
from tamiyo.operator_mode import OperatorMode
from tamiyo.policies import POLICIES
from tamiyo.reporting.book import ReportBook
from tamiyo.reporting.ledger import ReportLedger
from tamiyo.reporting.publisher import ReportPublisher
from tamiyo.telemetry import Telemetry

DEFAULT_LIMIT = 100
SWEEP_INTERVAL_S = 5.0


@dataclass(slots=True)
class Stream:
    """One Advise stream and the runs that it speaks of."""

    desk: Desk
    runs: set[str] = field(default_factory=set)

    async def answer(self, packet: leyline.SystemStatePacket) -> leyline.Decision:
        """Answer one packet."""
        self.runs.add(packet.training_run_id)
        return await self.desk.answer(packet)


@dataclass(frozen=True, slots=True)
class Reporting:
    """What field reports need: their ledger, the open windows, the way to the bus."""

    ledger: ReportLedger
    book: ReportBook
    publisher: ReportPublisher


class Desk:
    """Joins the parts.

    Parameters
    ----------
    advisor : Advisor
        Decides.
    index : DecisionIndex
        What can be explained.
    reporting : Reporting
        Field reports.
    operator : OperatorMode
        Orders about conservative mode.
    telemetry : Telemetry
        Told of everything.
    foresight : Foresight
        Has kernels made ahead of time.
    run_silent_s : float
        Silence after which a run counts as gone.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        advisor: Advisor,
        index: DecisionIndex,
        reporting: Reporting,
        operator: OperatorMode,
        telemetry: Telemetry,
        foresight: Foresight,
        *,
        run_silent_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._advisor = advisor
        self._runs = advisor.controller.runs
        self._index = index
        self._ledger = reporting.ledger
        self._book = reporting.book
        self._publisher = reporting.publisher
        self._operator = operator
        self._telemetry = telemetry
        self._foresight = foresight
        self._run_silent_s = run_silent_s
        self._clock = clock
        self._loaded_at: datetime = clock.wall()
        self._streams = 0

    async def answer(self, packet: leyline.SystemStatePacket) -> leyline.Decision:
        """Judge a packet, open and close windows, and return the decision."""
        outcome = await self._advisor.answer(packet)
        now_s = self._clock.monotonic()
        if outcome.seen is not None:
            self._publisher.take(self._book.observe(outcome.seen, now_s))
        if outcome.command is not None and outcome.memory is not None:
            self._book.open(DecisionRecord(outcome.decision, outcome.inputs), outcome.memory, now_s)
        if outcome.memory is not None and outcome.inputs.HasField("context"):
            self._foresight.plan_came(outcome.memory)
        self._tell()
        return outcome.decision

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """Open a stream; when it ends, the runs that had spent their budget have ended too."""
        stream = Stream(self)
        self._streams += 1
        self._tell()
        try:
            yield stream
        finally:
            self._streams -= 1
            for run_id in stream.runs:
                memory = self._runs.get(run_id)
                if memory is not None and memory.at_its_end:
                    self._publisher.take(self._book.run_ended(run_id, broken=False))
            self._tell()

    async def sweep(self) -> None:
        """Close the windows of runs that fell silent, for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.close_silent()

    def close_silent(self) -> None:
        """Close the windows of runs that have been silent for too long."""
        now_s = self._clock.monotonic()
        for run_id in self._book.run_ids():
            memory = self._runs.get(run_id)
            if memory is None or now_s - memory.seen_at_s > self._run_silent_s:
                ended = memory is not None and memory.at_its_end
                self._publisher.take(self._book.run_ended(run_id, broken=not ended))
        self._tell()

    def policies(self) -> list[leyline.PolicyDescriptor]:
        """Return the policies, the default first."""
        default = self._advisor.controller.rules.default_policy
        ordered = sorted(POLICIES.values(), key=lambda policy: (policy.name != default, policy.name))
        return [
            leyline.PolicyDescriptor(
                policy_name=policy.name,
                policy_version=policy.version,
                active=policy.name == default,
                loaded_at=to_timestamp(self._loaded_at),
                description=policy.description,
            )
            for policy in ordered
        ]

    def set_conservative(self, enabled: bool, reason: str, run_id: str) -> bool:
        """Switch conservative mode by an operator's order and return how it stands."""
        self._operator.switch(enabled, reason, run_id)
        self._tell()
        return self._operator.enabled(run_id)

    def explain(self, *, seed_id: str = "", command_id: str = "") -> list[tamiyo_pb2.ExplainedDecision]:
        """Explain a command, or everything about a seed, oldest first.

        Raises
        ------
        NotFoundError
            If the journal holds no such command, or none about that seed.
        """
        if command_id:
            found = self._index.command(command_id)
            records = [found] if found is not None else []
        else:
            records = self._index.about(seed_id)
        if not records:
            named = f"command {command_id!r}" if command_id else f"seed {seed_id!r}"
            raise NotFoundError(f"Tamiyo's journal holds no decision about {named}. `esper seeds` lists the seeds.")
        return [self._explained(record) for record in records]

    def reports(self, run_id: str, limit: int) -> list[leyline.FieldReport]:
        """Return field reports, newest first."""
        return self._ledger.newest(run_id, limit or DEFAULT_LIMIT)

    def _explained(self, record: DecisionRecord) -> tamiyo_pb2.ExplainedDecision:
        report = self._ledger.of_command(record.decision.command.command_id)
        return tamiyo_pb2.ExplainedDecision(
            command=record.decision.command,
            report=report,
            inputs=record.inputs,
            summary=summary_of(record, report),
        )

    def _tell(self) -> None:
        instruments = self._telemetry.instruments
        instruments.gauge("tamiyo.streams.open", self._streams)
        instruments.gauge("tamiyo.field_reports.pending_total", self._book.open_count + self._publisher.backlog)
        on = any(memory.mode.on for memory in self._runs) or self._operator.enabled("")
        instruments.gauge("tamiyo.conservative_mode", 1.0 if on else 0.0)
