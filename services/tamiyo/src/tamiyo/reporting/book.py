"""All observation windows, and which commands have their report: exactly one each, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterable

from esper_core import leyline
from esper_core.clocks import Clock
from tamiyo.journal import DecisionRecord
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.reporting.reports import report_of
from tamiyo.reporting.window import Close, Opening, Window, WindowRules


class ReportBook:
    """Opens a window per command and turns it into a report when it closes.

    Parameters
    ----------
    rules : WindowRules
        Lengths.
    clock : Clock
        Source of time.
    """

    def __init__(self, rules: WindowRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._reported: set[str] = set()

    @property
    def open_count(self) -> int:
        """Windows that are open."""
        return len(self._windows)

    def mark_reported(self, command_ids: Iterable[str]) -> None:
        """Note that commands have their report already."""
        self._reported.update(command_ids)

    def open(self, record: DecisionRecord, memory: RunMemory, at_s: float) -> None:
        """Open the window of a command that leaves; one that has a report or a window gets no second one."""
        command = record.command
        if command is None or command.command_id in self._reported or command.command_id in self._windows:
            return
        self._note_follow_up(command)
        seed = memory.seeds.get(command.target_seed_id)
        self._windows[command.command_id] = Window(_opening(record, command, memory, at_s), seed=seed)

    def observe(self, seen: Observation, now_s: float) -> list[leyline.FieldReport]:
        """Take a packet and return the reports of the windows that it closes."""
        closed = []
        for window in self._of(seen.run_id):
            close = window.observe(seen, now_s, self._rules)
            if close:
                closed.append(self._close(window, close))
        return closed

    def run_ended(self, run_id: str, *, broken: bool) -> list[leyline.FieldReport]:
        """Close every window of a run."""
        return [self._close(window, "run_broken" if broken else "run_ended") for window in self._of(run_id)]

    def run_ids(self) -> set[str]:
        """Return the runs with an open window."""
        return {window.opening.run_id for window in self._windows.values()}

    def _of(self, run_id: str) -> list[Window]:
        return [window for window in self._windows.values() if window.opening.run_id == run_id]

    def _close(self, window: Window, close: Close) -> leyline.FieldReport:
        command_id = window.opening.command_id
        del self._windows[command_id]
        self._reported.add(command_id)
        return report_of(window, close, self._rules, self._clock.wall())

    def _note_follow_up(self, command: leyline.AdaptationCommand) -> None:
        """Tell the windows of the same seed that another command was given."""
        if not command.target_seed_id:
            return
        name = leyline.SeedOperation.Name(command.seed_operation.operation).removeprefix("SEED_OPERATION_")
        for window in self._of(command.training_run_id):
            if window.seed_id == command.target_seed_id:
                window.follow_ups.append(f"{name} {command.command_id}")
                del window.follow_ups[:-16]


def _opening(record: DecisionRecord, command: leyline.AdaptationCommand, memory: RunMemory, at_s: float) -> Opening:
    policy, inputs = command.metadata.policy, record.inputs
    figures = inputs.metrics_struct
    return Opening(
        command_id=command.command_id,
        run_id=command.training_run_id,
        operation=command.seed_operation.operation,
        site=command.target_site or command.metadata.selection.site,
        blueprint_id=command.seed_operation.blueprint_id or command.metadata.selection.blueprint_id,
        seed_id=command.target_seed_id,
        step=command.decided_at_step,
        epoch=inputs.epoch,
        at_s=at_s,
        parameters=inputs.parameters,
        flops_used=inputs.flops_used,
        validation=memory.validation,
        loss=figures.loss_ewma if figures.HasField("loss_ewma") else None,
        policy_version=policy.policy_version,
        risk_index=policy.risk_index,
        risk_score=policy.risk_score,
        evaluation_ms=command.metadata.evaluation_ms,
    )
