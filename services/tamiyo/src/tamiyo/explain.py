"""Why a command was given, as a paragraph for people: when, where, what else was weighed, what it was worth."""

from __future__ import annotations

from esper_core import leyline
from esper_core.clocks import from_timestamp
from tamiyo.journal import DecisionRecord


def summary_of(record: DecisionRecord, report: leyline.FieldReport | None) -> str:
    """Return the paragraph.

    Parameters
    ----------
    record : DecisionRecord
        A record that holds a command.
    report : FieldReport or None
        Its report, once its window closed.
    """
    command = record.decision.command
    parts = (_what(command), _why(command), _alternatives(command), _risk(command), _worth(report))
    return " ".join(part for part in parts if part)


def _what(command: leyline.AdaptationCommand) -> str:
    at = from_timestamp(command.security.issued_at)
    return f"At step {command.decided_at_step} ({at:%Y-%m-%d %H:%M:%S} UTC) Tamiyo ordered {_order(command)}."


def _order(command: leyline.AdaptationCommand) -> str:
    if command.type != leyline.COMMAND_TYPE_SEED:
        return leyline.CommandType.Name(command.type).removeprefix("COMMAND_TYPE_")
    payload = command.seed_operation
    name = leyline.SeedOperation.Name(payload.operation).removeprefix("SEED_OPERATION_")
    if payload.operation != leyline.SEED_OPERATION_GERMINATE:
        return f"{name} of {command.target_seed_id}"
    ramp = f", blended in over {payload.blend.end_steps} steps" if payload.blend.end_steps else ""
    return f"{name} of {payload.blueprint_id} at site {command.target_site}{ramp}"


def _why(command: leyline.AdaptationCommand) -> str:
    policy = command.metadata.policy
    return f"Policy {policy.policy_name} ({policy.policy_version}): {policy.rationale}"


def _alternatives(command: leyline.AdaptationCommand) -> str:
    others = command.metadata.selection.candidates[1:4]
    if not others:
        return ""
    told = ", ".join(f"{one.blueprint_id} at {one.site} ({one.score:.3f})" for one in others)
    return f"It was preferred at a score of {command.metadata.selection.candidates[0].score:.3f} to {told}."


def _risk(command: leyline.AdaptationCommand) -> str:
    findings = command.metadata.risk.findings
    if not findings:
        return "The risk engine found nothing."
    told = " ".join(
        f"{one.evaluator}: {one.explanation}" + (" This made the command safer." if one.changed_command else "")
        for one in findings
    )
    return f"The risk engine found: {told}"


def _worth(report: leyline.FieldReport | None) -> str:
    if report is None:
        return "Its observation window is still open."
    name = leyline.FieldReportOutcome.Name(report.outcome).removeprefix("FIELD_REPORT_OUTCOME_")
    window = f"over steps {report.window_start_step} to {report.window_end_step}"
    return f"It was worth {name} {window}. {report.notes}".strip()
