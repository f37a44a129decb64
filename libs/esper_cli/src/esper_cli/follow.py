"""Shows a run while it trains: a line with progress, and a line for each thing that happens to a seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from esper_cli.output import ERR
from esper_cli.run_views import stage_word, state_word
from esper_core import leyline
from esper_core.clocks import from_duration

_KINDS: Final = (
    "seed",
    "rollback",
    "emergency",
    "control_loss",
    "state",
    "gate",
    "command",
    "teacher",
    "breaker",
    "speed",
)


def follow(events: Iterable[leyline.RunEvent], label: str) -> None:
    """Show events until they end; on a terminal with a bar, elsewhere as plain lines without progress."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as bar:
        task = bar.add_task(label, total=1.0, figures="", eta="")
        for event in events:
            _show(bar, task, event)


def _show(bar: Progress, task: TaskID, event: leyline.RunEvent) -> None:
    which = event.WhichOneof("payload") or ""
    if which == "progress":
        progress = event.progress
        bar.update(task, completed=progress.fraction, figures=_figures(progress), eta=_eta(progress))
        return
    line = told(event) if which in _KINDS else ""
    if line:
        bar.console.print(f"step {event.global_step:>6}  {line}", soft_wrap=not bar.console.is_terminal)


def told(event: leyline.RunEvent) -> str:
    """Return what an event tells a person, as one line; empty for what is of no interest while watching."""
    which = event.WhichOneof("payload")
    if which == "seed":
        seed = event.seed
        return f"seed {seed.seed_id.split('/', 1)[-1]} {stage_word(seed.to_stage)}: {seed.reason}"
    if which == "gate" and not event.gate.passed:
        return f"gate failed for {event.gate.seed_id.split('/', 1)[-1]}: {event.gate.explanation}"
    if which == "command" and not event.command.accepted:
        return f"command rejected: {event.command.explanation}"
    if which == "state":
        return f"{state_word(event.state.to_state)}: {event.state.reason}"
    if which == "rollback":
        return f"rollback ({event.rollback.trigger}): {event.rollback.message}"
    if which == "emergency":
        what = "cleared" if event.emergency.cleared else f"of level {event.emergency.level_now}"
        return f"emergency {what}: {event.emergency.reason}"
    return _told_of_parts(event)


def _told_of_parts(event: leyline.RunEvent) -> str:
    which = event.WhichOneof("payload")
    if which == "control_loss":
        loss = event.control_loss
        return f"{loss.peer} {'lost' if loss.lost else 'is back'}: {loss.reason}"
    if which == "breaker":
        state = leyline.CircuitState.Name(event.breaker.to_state).removeprefix("CIRCUIT_STATE_")
        return f"breaker {event.breaker.breaker} {state}: {event.breaker.reason}"
    if which == "teacher":
        verb = "takes part" if event.teacher.takes_part else "has gone"
        return f"teacher {event.teacher.teacher_id} {verb}: {event.teacher.reason}"
    return _of_speed(event.speed)


def _of_speed(note: leyline.SpeedNote) -> str:
    # Compiling and overflows are everyday matters; that something is slower than asked for is not.
    return note.reason if note.what.endswith("_fallback") else ""


def _figures(progress: leyline.RunProgress) -> str:
    parts = [f"loss {progress.loss:.3f}"] if progress.HasField("loss") else []
    if progress.HasField("validation_accuracy"):
        parts.append(f"val {progress.validation_accuracy:.3f}")
    parts.append(f"{progress.parameters} params")
    return "  ".join(parts)


def _eta(progress: leyline.RunProgress) -> str:
    return f"eta {from_duration(progress.eta):.0f} s" if progress.HasField("eta") else ""
