"""Run events in words: for each kind a sentence for people, the seed it is about, its level and details."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from esper_core import leyline

Level: TypeAlias = leyline.TelemetryLevel.ValueType
INFO: Final = leyline.TELEMETRY_LEVEL_INFO
WARNING: Final = leyline.TELEMETRY_LEVEL_WARNING
CRITICAL: Final = leyline.TELEMETRY_LEVEL_CRITICAL
Told = tuple[str, str, Level, tuple[tuple[str, str], ...]]


def told(event: leyline.RunEvent) -> Told | None:
    """Return the sentence, the id of the seed it is about, the level and the details in order; None for no history."""
    tell = _TELLERS.get(event.WhichOneof("payload") or "")
    return None if tell is None else tell(event)


def word(enum: Any, value: int) -> str:
    """Return the name of an enum value without its prefix; the number for a value from a newer peer."""
    if value not in enum.values():
        return str(value)
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return str(enum.Name(value)).removeprefix(prefix)


def _state(event: leyline.RunEvent) -> Told:
    change = event.state
    before, after = (word(leyline.RunState, value) for value in (change.from_state, change.to_state))
    bad = change.to_state in (leyline.RUN_STATE_FAILED, leyline.RUN_STATE_HALTED)
    return f"{before} to {after}: {change.reason}", "", WARNING if bad else INFO, ()


def _seed(event: leyline.RunEvent) -> Told:
    moved = event.seed
    before, after = (word(leyline.SeedStage, value) for value in (moved.from_stage, moved.to_stage))
    details = (("site", moved.site), ("blueprint_id", moved.blueprint_id), ("from", before), ("to", after))
    return f"{before} to {after}: {moved.reason}", moved.seed_id, INFO, details


def _gate(event: leyline.RunEvent) -> Told:
    gate = event.gate
    name = word(leyline.SeedGate, gate.gate)
    numbers = tuple((row.name, f"{row.observed:.6g} (limit {row.limit:.6g})") for row in gate.thresholds)
    verdict = "passed" if gate.passed else f"failed, {gate.reason}"
    level = INFO if gate.passed else CRITICAL
    return f"{name} {verdict}: {gate.explanation}", gate.seed_id, level, (("gate", name), *numbers)


def _command(event: leyline.RunEvent) -> Told:
    outcome = event.command
    verdict = "accepted" if outcome.accepted else f"rejected, {word(leyline.RejectReason, outcome.reject_reason)}"
    level = INFO if outcome.accepted else CRITICAL
    return f"{verdict}: {outcome.explanation}", outcome.seed_id, level, (("command_id", outcome.command_id),)


def _decision(event: leyline.RunEvent) -> Told:
    decision = event.decision
    which = decision.WhichOneof("outcome")
    if which == "command":
        command = decision.command
        what = word(leyline.CommandType, command.type)
        if command.HasField("seed_operation"):
            what = word(leyline.SeedOperation, command.seed_operation.operation)
        why = command.metadata.policy.rationale
        return f"{what}: {why}", command.target_seed_id, INFO, (("command_id", command.command_id),)
    if which == "failure":
        return decision.failure.message, "", WARNING, (("code", decision.failure.code),)
    return f"wait, {decision.no_action.reason}: {decision.no_action.explanation}", "", INFO, ()


def _directive(event: leyline.RunEvent) -> Told:
    result = event.directive
    kind = word(leyline.DirectiveKind, result.kind)
    level = INFO if result.applied else WARNING
    text = f"{kind} applied" if result.applied else f"{kind} failed: {result.message}"
    return text, result.seed_id, level, (("directive_id", result.directive_id),)


def _rollback(event: leyline.RunEvent) -> Told:
    report = event.rollback
    outcome = word(leyline.RollbackOutcome, report.outcome)
    return f"{report.trigger}: {outcome}, {report.message}", "", WARNING, (("latency_ms", f"{report.latency_ms:.1f}"),)


def _checkpoint(event: leyline.RunEvent) -> Told:
    info = event.checkpoint
    level = INFO if info.good else WARNING
    return f"{info.checkpoint_id} ({info.reason}) {info.problem}".strip(), "", level, ()


def _emergency_note(event: leyline.RunEvent) -> Told:
    note = event.emergency
    level = word(leyline.EmergencyLevel, note.level)
    verb = "cleared" if note.cleared else "raised"
    return f"{level} {verb} by {note.origin}: {note.reason}", "", CRITICAL, (("signal_id", note.signal_id),)


def _control_loss(event: leyline.RunEvent) -> Told:
    loss = event.control_loss
    verb = "lost" if loss.lost else "back"
    return f"{loss.peer} {verb}: {loss.reason}", "", WARNING if loss.lost else INFO, ()


def _validation(event: leyline.RunEvent) -> Told:
    figures = event.validation
    accuracy = f", accuracy {figures.accuracy:.4f}" if figures.HasField("accuracy") else ""
    return f"loss {figures.loss:.4f}{accuracy}", "", INFO, (("loss", repr(figures.loss)),)


def _gradients(event: leyline.RunEvent) -> Told:
    report = event.gradients
    shares = ", ".join(f"{owner.site or owner.owner} {owner.share:.0%}" for owner in report.owners)
    return f"gradients up to step {report.last_step}: {shares}", "", INFO, (("steps", str(report.steps)),)


def _result(event: leyline.RunEvent) -> Told:
    result = event.result
    accuracy = f"accuracy {result.accuracy:.4f}, " if result.accuracy_measured else ""
    size = f"{result.parameters_initial} to {result.parameters_final} parameters"
    return f"{accuracy}{size}, {result.flops} FLOPs", "", INFO, ()


def _teacher(event: leyline.RunEvent) -> Told:
    change = event.teacher
    verb, level = ("takes part", INFO) if change.takes_part else ("has gone", WARNING)
    return f"teacher {change.teacher_id} {verb}: {change.reason}", "", level, (("teacher_id", change.teacher_id),)


def _breaker(event: leyline.RunEvent) -> Told:
    move = event.breaker
    before, after = (word(leyline.CircuitState, value) for value in (move.from_state, move.to_state))
    level = WARNING if move.to_state == leyline.CIRCUIT_STATE_OPEN else INFO
    return f"{move.breaker}, {before} to {after}: {move.reason}", "", level, (("breaker", move.breaker),)


def _speed(event: leyline.RunEvent) -> Told:
    note = event.speed
    level = WARNING if note.what.endswith("_fallback") else INFO
    return f"{note.what}: {note.reason}", "", level, (("blocks", " ".join(note.blocks)),)


_TELLERS: Final[dict[str, Callable[[leyline.RunEvent], Told]]] = {
    "state": _state,
    "seed": _seed,
    "gate": _gate,
    "command": _command,
    "decision": _decision,
    "directive": _directive,
    "rollback": _rollback,
    "checkpoint": _checkpoint,
    "emergency": _emergency_note,
    "control_loss": _control_loss,
    "validation": _validation,
    "result": _result,
    "teacher": _teacher,
    "breaker": _breaker,
    "gradients": _gradients,
    "speed": _speed,
}
