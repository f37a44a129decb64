"""Entries of the history, and how each kind of message becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import from_timestamp

Level: TypeAlias = leyline.TelemetryLevel.ValueType


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, as the history keeps it.

    Parameters
    ----------
    event_id : str
        Id of the original; the same id is kept once.
    name : str
        Word for programs, such as "seed_stage".
    source : str
        Service that told it.
    description : str
        Sentence for people.
    occurred_at : datetime
        Wall time.
    level : leyline.TelemetryLevel
        Severity.
    training_run_id, seed_id : str
        What it concerns; empty where nothing.
    attributes : tuple[tuple[str, str], ...]
        Details in order.
    """

    event_id: str
    name: str
    source: str
    description: str
    occurred_at: datetime
    level: Level = leyline.TELEMETRY_LEVEL_INFO
    training_run_id: str = ""
    seed_id: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


def entries_of(message: Message, source: str) -> Iterator[Entry]:
    """Yield the entries that a message makes; none for messages that are no history, such as progress.

    Parameters
    ----------
    message : Message
        A Leyline message from the bus.
    source : str
        Service that published it.
    """
    if isinstance(message, leyline.TelemetryPacket):
        yield from _of_packet(message)
    elif isinstance(message, leyline.RunEvent):
        entry = _of_run_event(message, source)
        if entry is not None:
            yield entry
    elif isinstance(message, leyline.FieldReport):
        yield _of_report(message, source)
    elif isinstance(message, leyline.EmergencySignal):
        yield _of_emergency(message)
    elif isinstance(message, leyline.KernelReady | leyline.KernelError):
        yield _of_kernel(message, source)


def _of_packet(packet: leyline.TelemetryPacket) -> Iterator[Entry]:
    for event in packet.events:
        yield Entry(
            event_id=event.event_id,
            name=event.name,
            source=packet.source,
            description=event.description,
            occurred_at=from_timestamp(event.occurred_at),
            level=event.level,
            training_run_id=packet.training_run_id or event.attributes.get("training_run_id", ""),
            seed_id=event.attributes.get("seed_id", ""),
            attributes=tuple(sorted(event.attributes.items())),
        )


def _of_run_event(event: leyline.RunEvent, source: str) -> Entry | None:
    tell = _TELLERS.get(event.WhichOneof("payload") or "")
    if tell is None:
        return None
    description, seed_id, level, attributes = tell(event)
    return Entry(
        event_id=event.event_id,
        name=leyline.RunEventKind.Name(event.kind).removeprefix("RUN_EVENT_KIND_").lower(),
        source=source,
        description=description,
        occurred_at=from_timestamp(event.occurred_at),
        level=level,
        training_run_id=event.training_run_id,
        seed_id=seed_id,
        attributes=(("step", str(event.global_step)), *attributes),
    )


Told = tuple[str, str, Level, tuple[tuple[str, str], ...]]
_INFO: Final = leyline.TELEMETRY_LEVEL_INFO
_WARNING: Final = leyline.TELEMETRY_LEVEL_WARNING
_CRITICAL: Final = leyline.TELEMETRY_LEVEL_CRITICAL


def _state(event: leyline.RunEvent) -> Told:
    change = event.state
    before, after = (word(leyline.RunState, value) for value in (change.from_state, change.to_state))
    bad = change.to_state in (leyline.RUN_STATE_FAILED, leyline.RUN_STATE_HALTED)
    return f"{before} to {after}: {change.reason}", "", _WARNING if bad else _INFO, ()


def _seed(event: leyline.RunEvent) -> Told:
    moved = event.seed
    before, after = (word(leyline.SeedStage, value) for value in (moved.from_stage, moved.to_stage))
    details = (("site", moved.site), ("blueprint_id", moved.blueprint_id), ("from", before), ("to", after))
    return f"{before} to {after}: {moved.reason}", moved.seed_id, _INFO, details


def _gate(event: leyline.RunEvent) -> Told:
    gate = event.gate
    name = word(leyline.SeedGate, gate.gate)
    numbers = tuple((row.name, f"{row.observed:.6g} (limit {row.limit:.6g})") for row in gate.thresholds)
    verdict = "passed" if gate.passed else f"failed, {gate.reason}"
    level = _INFO if gate.passed else _CRITICAL
    return f"{name} {verdict}: {gate.explanation}", gate.seed_id, level, (("gate", name), *numbers)


def _command(event: leyline.RunEvent) -> Told:
    outcome = event.command
    verdict = "accepted" if outcome.accepted else f"rejected, {word(leyline.RejectReason, outcome.reject_reason)}"
    level = _INFO if outcome.accepted else _CRITICAL
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
        return f"{what}: {why}", command.target_seed_id, _INFO, (("command_id", command.command_id),)
    if which == "failure":
        return decision.failure.message, "", _WARNING, (("code", decision.failure.code),)
    return f"wait, {decision.no_action.reason}: {decision.no_action.explanation}", "", _INFO, ()


def _directive(event: leyline.RunEvent) -> Told:
    result = event.directive
    kind = word(leyline.DirectiveKind, result.kind)
    level = _INFO if result.applied else _WARNING
    text = f"{kind} applied" if result.applied else f"{kind} failed: {result.message}"
    return text, result.seed_id, level, (("directive_id", result.directive_id),)


def _rollback(event: leyline.RunEvent) -> Told:
    report = event.rollback
    outcome = word(leyline.RollbackOutcome, report.outcome)
    return f"{report.trigger}: {outcome}, {report.message}", "", _WARNING, (("latency_ms", f"{report.latency_ms:.1f}"),)


def _checkpoint(event: leyline.RunEvent) -> Told:
    info = event.checkpoint
    level = _INFO if info.good else _WARNING
    return f"{info.checkpoint_id} ({info.reason}) {info.problem}".strip(), "", level, ()


def _emergency_note(event: leyline.RunEvent) -> Told:
    note = event.emergency
    level = word(leyline.EmergencyLevel, note.level)
    verb = "cleared" if note.cleared else "raised"
    return f"{level} {verb} by {note.origin}: {note.reason}", "", _CRITICAL, (("signal_id", note.signal_id),)


def _control_loss(event: leyline.RunEvent) -> Told:
    loss = event.control_loss
    verb = "lost" if loss.lost else "back"
    return f"{loss.peer} {verb}: {loss.reason}", "", _WARNING if loss.lost else _INFO, ()


def _validation(event: leyline.RunEvent) -> Told:
    figures = event.validation
    accuracy = f", accuracy {figures.accuracy:.4f}" if figures.HasField("accuracy") else ""
    return f"loss {figures.loss:.4f}{accuracy}", "", _INFO, (("loss", repr(figures.loss)),)


def _gradients(event: leyline.RunEvent) -> Told:
    report = event.gradients
    shares = ", ".join(f"{owner.site or owner.owner} {owner.share:.0%}" for owner in report.owners)
    return f"gradients up to step {report.last_step}: {shares}", "", _INFO, (("steps", str(report.steps)),)


def _result(event: leyline.RunEvent) -> Told:
    result = event.result
    accuracy = f"accuracy {result.accuracy:.4f}, " if result.accuracy_measured else ""
    size = f"{result.parameters_initial} to {result.parameters_final} parameters"
    return f"{accuracy}{size}, {result.flops} FLOPs", "", _INFO, ()


def _teacher(event: leyline.RunEvent) -> Told:
    change = event.teacher
    verb, level = ("takes part", _INFO) if change.takes_part else ("has gone", _WARNING)
    return f"teacher {change.teacher_id} {verb}: {change.reason}", "", level, (("teacher_id", change.teacher_id),)


def _breaker(event: leyline.RunEvent) -> Told:
    move = event.breaker
    before, after = (word(leyline.CircuitState, value) for value in (move.from_state, move.to_state))
    level = _WARNING if move.to_state == leyline.CIRCUIT_STATE_OPEN else _INFO
    return f"{move.breaker}, {before} to {after}: {move.reason}", "", level, (("breaker", move.breaker),)


def _speed(event: leyline.RunEvent) -> Told:
    note = event.speed
    level = _WARNING if note.what.endswith("_fallback") else _INFO
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


def _of_report(report: leyline.FieldReport, source: str) -> Entry:
    outcome = word(leyline.FieldReportOutcome, report.outcome)
    return Entry(
        event_id=report.report_id,
        name="field_report",
        source=source,
        description=f"{outcome}: {report.notes}",
        occurred_at=from_timestamp(report.issued_at),
        training_run_id=report.training_run_id,
        seed_id=report.seed_id,
        attributes=(("outcome", outcome), ("command_id", report.command_id), ("blueprint_id", report.blueprint_id)),
    )


def _of_emergency(signal: leyline.EmergencySignal) -> Entry:
    level = word(leyline.EmergencyLevel, signal.level)
    return Entry(
        event_id=signal.signal_id,
        name="emergency_cleared" if signal.clear else "emergency",
        source=signal.origin,
        description=f"{level}: {signal.reason}",
        occurred_at=from_timestamp(signal.triggered_at),
        level=_CRITICAL,
        training_run_id=signal.training_run_id,
        attributes=(("level", level),),
    )


def _of_kernel(message: leyline.KernelReady | leyline.KernelError, source: str) -> Entry:
    if isinstance(message, leyline.KernelReady):
        name, text, at, level = "kernel_ready", message.kernel.blueprint_id, message.ready_at, _INFO
    else:
        name, text, at, level = "kernel_error", message.message, message.occurred_at, _WARNING
    return Entry(
        event_id=f"{name}-{message.request_id}",
        name=name,
        source=source,
        description=text,
        occurred_at=from_timestamp(at),
        level=level,
        training_run_id=message.training_run_id,
    )


def word(enum: Any, value: int) -> str:
    """Return the name of an enum value without its prefix; the number for a value from a newer peer."""
    if value not in enum.values():
        return str(value)
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return str(enum.Name(value)).removeprefix(prefix)
