"""After a restart: the journal is played back, so that memories, windows and links are as they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esper_core import leyline
from esper_core.clocks import Clock, from_timestamp
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from tamiyo.actions import Action, Kind
from tamiyo.convert.packets import observation_of
from tamiyo.journal import DecisionIndex, DecisionRecord
from tamiyo.reporting.book import ReportBook
from tamiyo.runs import RunTable

_KINDS: Final[dict[int, Kind]] = {
    leyline.SEED_OPERATION_GERMINATE: "GERMINATE",
    leyline.SEED_OPERATION_ADVANCE: "ADVANCE",
    leyline.SEED_OPERATION_FOSSILIZE: "FOSSILIZE",
    leyline.SEED_OPERATION_CULL: "CULL",
}
_log = get_logger("restore")


def restore(
    records: Sequence[DecisionRecord], runs: RunTable, index: DecisionIndex, book: ReportBook, clock: Clock
) -> list[leyline.FieldReport]:
    """Play back journalled decisions and return the reports that became due by that.

    Parameters
    ----------
    records : Sequence of DecisionRecord
        In the order in which they were written.
    runs, index, book
        Filled by this.
    clock : Clock
        Source of time; what happened before is dated back by wall time.
    """
    now_s, wall = clock.monotonic(), clock.wall()
    due: list[leyline.FieldReport] = []
    for record in records:
        index.add(record)
        decided_s = now_s - max(0.0, (wall - from_timestamp(record.decision.decided_at)).total_seconds())
        try:
            seen = observation_of(record.inputs)
        except EsperError as error:
            _log.info("record without a readable packet", decision_id=record.decision.decision_id, reason=error.message)
            continue
        memory = runs.open(seen.run_id)
        memory.take(seen, decided_s)
        due += book.observe(seen, decided_s)
        if record.command is not None:
            memory.note(_action_of(record.command), record.command.command_id, decided_s, seen.step, memory.fraction)
            book.open(record, memory, decided_s)
    for memory in runs:
        memory.seen_at_s = now_s
    return due


def _action_of(command: leyline.AdaptationCommand) -> Action:
    selection = command.metadata.selection
    kind = _KINDS.get(command.seed_operation.operation, "OPTIMIZER")
    return Action(
        kind,
        "",
        command.metadata.policy.rationale,
        seed_id=command.target_seed_id,
        site=command.target_site or selection.site,
        blueprint_id=command.seed_operation.blueprint_id or selection.blueprint_id,
    )
