"""Entries of the history, and how each kind of message becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.clocks import from_timestamp
from nissa.run_events import CRITICAL, INFO, WARNING, Level, told, word


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
    level: Level = INFO
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
    found = told(event)
    if found is None:
        return None
    description, seed_id, level, attributes = found
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
        level=CRITICAL,
        training_run_id=signal.training_run_id,
        attributes=(("level", level),),
    )


def _of_kernel(message: leyline.KernelReady | leyline.KernelError, source: str) -> Entry:
    if isinstance(message, leyline.KernelReady):
        name, text, at, level = "kernel_ready", message.kernel.blueprint_id, message.ready_at, INFO
    else:
        name, text, at, level = "kernel_error", message.message, message.occurred_at, WARNING
    return Entry(
        event_id=f"{name}-{message.request_id}",
        name=name,
        source=source,
        description=text,
        occurred_at=from_timestamp(at),
        level=level,
        training_run_id=message.training_run_id,
    )
