"""From packet to answer at the edge: decide, write ahead, tell. A command leaves only once it is on disk."""

from __future__ import annotations

from typing import Literal

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from tamiyo.controller import Controller, Outcome
from tamiyo.convert.decisions import failure_of
from tamiyo.group_commit import GroupCommit
from tamiyo.journal import DecisionIndex, DecisionRecord, encode
from tamiyo.telemetry import ERROR, Telemetry

_log = get_logger("advisor")
WhichWaits = Literal["changes", "all"]


class Advisor:
    """Answers packets.

    Parameters
    ----------
    controller : Controller
        Decides.
    commits : GroupCommit
        The decision journal.
    index : DecisionIndex
        What Explain looks at.
    telemetry : Telemetry
        Told of everything.
    journal_waits : {"changes", "all"}
        Which no-actions are journalled.
    """

    def __init__(
        self,
        controller: Controller,
        commits: GroupCommit,
        index: DecisionIndex,
        telemetry: Telemetry,
        *,
        journal_waits: WhichWaits = "changes",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.controller = controller
        self._commits = commits
        self._index = index
        self._telemetry = telemetry
        self._journal_waits = journal_waits
        self._clock = clock
        self._last: dict[str, str] = {}

    async def answer(self, packet: leyline.SystemStatePacket) -> Outcome:
        """Judge a packet; what is returned may be sent."""
        outcome = self.controller.decide(packet)
        self._index.link(outcome.inputs.seeds)
        if outcome.command is not None:
            outcome = await self._written(packet, outcome)
        elif self._worth_keeping(outcome):
            self._put(outcome)
        self._telemetry.outcome(outcome)
        return outcome

    async def _written(self, packet: leyline.SystemStatePacket, outcome: Outcome) -> Outcome:
        """Write a command ahead; one that cannot be written does not leave."""
        record = DecisionRecord(outcome.decision, outcome.inputs)
        try:
            await self._commits.put(encode(record))
        except EsperError as error:
            _log.error("command withheld", command_id=outcome.decision.decision_id, reason=error.message)
            if outcome.memory is not None:
                outcome.memory.withdraw(outcome.decision.decision_id)
            failure = failure_of(outcome.decision.decision_id, packet, error, self._clock.wall())
            return Outcome(failure, outcome.inputs, outcome.elapsed_ms, memory=outcome.memory, error=error)
        self._index.add(record)
        return outcome

    def _worth_keeping(self, outcome: Outcome) -> bool:
        """Tell whether a validation pass came, or reason or stages differ from those of the decision before."""
        if self._journal_waits == "all":
            return True
        decision, run_id = outcome.decision, outcome.decision.training_run_id
        stages = ",".join(f"{seed.seed_id}:{seed.stage}" for seed in outcome.inputs.seeds)
        if outcome.inputs.HasField("validation"):
            return True
        told = f"{decision.no_action.reason}|{decision.failure.code}|{stages}"
        if self._last.get(run_id) == told:
            return False
        if run_id not in self._last and len(self._last) >= 1024:
            self._last.clear()
        self._last[run_id] = told
        return True

    def _put(self, outcome: Outcome) -> None:
        try:
            self._commits.put(encode(DecisionRecord(outcome.decision, outcome.inputs)))
        except EsperError as error:
            run_id = outcome.decision.training_run_id
            self._telemetry.event("decision_not_journalled", ERROR, error.message, run_id)
