"""From run events to metrics and telemetry events, under the names of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.clocks import from_timestamp
from esper_core.telemetry import TelemetryEmitter

_GRAVE: Final = {
    leyline.RUN_STATE_HALTED: ("run_halted", leyline.TELEMETRY_LEVEL_ERROR),
    leyline.RUN_STATE_FAILED: ("run_failed", leyline.TELEMETRY_LEVEL_CRITICAL),
    leyline.RUN_STATE_CONSERVATIVE: ("run_conservative", leyline.TELEMETRY_LEVEL_WARNING),
}
_FINISHED: Final = frozenset({leyline.RUN_STATE_HALTED, leyline.RUN_STATE_FAILED, leyline.RUN_STATE_COMPLETED})


def meter(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    """Record what an event means for the metrics; costs microseconds and never waits."""
    record = _RECORDERS.get(event.kind)
    if record is not None:
        record(emitter, event)


def _progress(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    progress, run_id = event.progress, event.training_run_id
    if progress.HasField("loss"):
        emitter.gauge("tolaria.training.loss", progress.loss, run_id=run_id)
    if progress.HasField("distillation_loss"):
        emitter.gauge("tolaria.distillation.loss", progress.distillation_loss, run_id=run_id)
    emitter.gauge("tolaria.training.steps", progress.step, run_id=run_id)
    emitter.gauge("tolaria.training.parameters", progress.parameters, run_id=run_id)
    emitter.gauge("tolaria.training.generation", progress.generation, run_id=run_id)
    if progress.steps_per_s > 0:
        emitter.observe("tolaria.training.latency_ms", 1000 / progress.steps_per_s, run_id=run_id)


def _validation(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    emitter.gauge("tolaria.validation.loss", event.validation.loss, run_id=event.training_run_id)
    if event.validation.HasField("accuracy"):
        emitter.gauge("tolaria.validation.accuracy", event.validation.accuracy, run_id=event.training_run_id)


def _rollback(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    report, run_id = event.rollback, event.training_run_id
    outcome = leyline.RollbackOutcome.Name(report.outcome).removeprefix("ROLLBACK_OUTCOME_")
    tier = "fast" if report.outcome == leyline.ROLLBACK_OUTCOME_FAST_HIT else "full"
    emitter.count("tolaria.rollback.attempts_total", outcome=outcome, run_id=run_id)
    emitter.observe("tolaria.rollback.restore_latency_ms", report.latency_ms, tier=tier, run_id=run_id)
    emitter.observe("tolaria.rollback.deadline_share", report.deadline_share, tier=tier, run_id=run_id)
    if report.deadline_missed:
        emitter.count("tolaria.rollback.deadline_exceeded_total", run_id=run_id)
    emitter.event(
        "run_rolled_back", leyline.TELEMETRY_LEVEL_ERROR, report.message, run_id=run_id, trigger=report.trigger
    )


def _checkpoint(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    if event.checkpoint.good:
        emitter.count("tolaria.checkpoint.written_total", run_id=event.training_run_id)
    else:
        emitter.event(
            "checkpoint_damaged",
            leyline.TELEMETRY_LEVEL_ERROR,
            event.checkpoint.problem,
            run_id=event.training_run_id,
            checkpoint=event.checkpoint.checkpoint_id,
        )


def _directive(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    result, run_id = event.directive, event.training_run_id
    kind = leyline.DirectiveKind.Name(result.kind).removeprefix("DIRECTIVE_KIND_")
    outcome = "applied" if result.applied else result.error_code
    emitter.count("tolaria.directives.applied_total", kind=kind, result=outcome, run_id=run_id)
    if result.apply_ms > 0:
        emitter.observe("tolaria.directive.apply_ms", result.apply_ms, run_id=run_id)


def _emergency(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    note, run_id = event.emergency, event.training_run_id
    emitter.gauge("tolaria.emergency.level", note.level_now, run_id=run_id)
    if note.past_cap:
        emitter.count("tolaria.emergency.bypass_applied_total", run_id=run_id)
    if note.waited:
        emitter.count("tolaria.emergency.delayed_total", run_id=run_id)
    if note.level == leyline.EMERGENCY_LEVEL_HALT and not note.cleared:
        emitter.count("tolaria.emergency.halts_total", run_id=run_id)
        emitter.event(
            "emergency_halt", leyline.TELEMETRY_LEVEL_CRITICAL, note.reason, run_id=run_id, origin=note.origin
        )


def _teacher(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    change, run_id = event.teacher, event.training_run_id
    emitter.gauge("tolaria.distillation.teacher_bytes", change.memory_bytes, run_id=run_id)
    emitter.gauge("tolaria.distillation.flops_per_step", change.flops_per_step, run_id=run_id)
    name, level = (
        ("teacher_registered", leyline.TELEMETRY_LEVEL_INFO)
        if change.takes_part
        else ("teacher_dismissed", leyline.TELEMETRY_LEVEL_WARNING)
    )
    emitter.event(name, level, change.reason, run_id=run_id, teacher_id=change.teacher_id)


def _gradients(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    report, run_id = event.gradients, event.training_run_id
    for owner in report.owners:
        label = owner.site or owner.owner
        emitter.gauge("tolaria.gradient.owner_norm", owner.gradient_norm, owner=label, run_id=run_id)
        emitter.gauge("tolaria.gradient.owner_share", owner.share, owner=label, run_id=run_id)
        emitter.gauge("tolaria.gradient.owner_scale", owner.scale, owner=label, run_id=run_id)
        if owner.HasField("weight_norm"):
            emitter.gauge("tolaria.gradient.owner_weight_norm", owner.weight_norm, owner=label, run_id=run_id)
        if owner.HasField("alpha"):
            emitter.gauge("tolaria.gradient.owner_alpha", owner.alpha, owner=label, run_id=run_id)
        if owner.HasField("conflict_rate"):
            emitter.gauge("tolaria.gradient.owner_conflict_rate", owner.conflict_rate, owner=label, run_id=run_id)
        if owner.HasField("attributed_loss"):
            emitter.gauge("tolaria.attribution.owner_loss", owner.attributed_loss, owner=label, run_id=run_id)
    for rank, layer in enumerate(report.layers, 1):
        emitter.gauge("tolaria.gradient.layer_norm", layer.gradient_norm, rank=rank, run_id=run_id)


def _state(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    change, run_id = event.state, event.training_run_id
    if change.to_state in _FINISHED:
        name = leyline.RunState.Name(change.to_state).removeprefix("RUN_STATE_")
        emitter.count("tolaria.runs.finished_total", state=name, run_id=run_id)
    if change.to_state in _GRAVE:
        event_name, level = _GRAVE[change.to_state]
        emitter.event(event_name, level, change.reason, run_id=run_id)


def _seed(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    moved, run_id = event.seed, event.training_run_id
    if not moved.aborted_because:
        return
    emitter.count("tolaria.seeds.aborted_total", cause=moved.aborted_because, run_id=run_id)
    undecided = moved.aborted_because == "undecided"
    level = leyline.TELEMETRY_LEVEL_INFO if undecided else leyline.TELEMETRY_LEVEL_ERROR
    emitter.event("seed_aborted", level, moved.reason, run_id=run_id, seed_id=moved.seed_id)


def _breaker(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    move = event.breaker
    at = from_timestamp(event.occurred_at)
    emitter.breaker_moved(Transition(move.breaker, move.from_state, move.to_state, move.reason, at))


def _speed(emitter: TelemetryEmitter, event: leyline.RunEvent) -> None:
    note, run_id = event.speed, event.training_run_id
    if note.what == "compiled":
        emitter.count("tolaria.compile.graphs_total", note.graphs, run_id=run_id)
        emitter.observe("tolaria.compile.latency_ms", note.compile_ms, run_id=run_id)
    elif note.what == "overflow":
        emitter.count("tolaria.amp.overflows_total", run_id=run_id)
    else:
        name = "tolaria.compile.fallbacks_total" if note.what == "compile_fallback" else "tolaria.graph_fallback_total"
        emitter.count(name, run_id=run_id)
        emitter.event(note.what, leyline.TELEMETRY_LEVEL_WARNING, note.reason, run_id=run_id)


_RECORDERS: Final[Mapping[int, Callable[[TelemetryEmitter, leyline.RunEvent], None]]] = {
    leyline.RUN_EVENT_KIND_PROGRESS: _progress,
    leyline.RUN_EVENT_KIND_VALIDATION: _validation,
    leyline.RUN_EVENT_KIND_ROLLBACK: _rollback,
    leyline.RUN_EVENT_KIND_CHECKPOINT: _checkpoint,
    leyline.RUN_EVENT_KIND_DIRECTIVE: _directive,
    leyline.RUN_EVENT_KIND_EMERGENCY: _emergency,
    leyline.RUN_EVENT_KIND_STATE: _state,
    leyline.RUN_EVENT_KIND_TEACHER: _teacher,
    leyline.RUN_EVENT_KIND_SEED_STAGE: _seed,
    leyline.RUN_EVENT_KIND_BREAKER: _breaker,
    leyline.RUN_EVENT_KIND_GRADIENTS: _gradients,
    leyline.RUN_EVENT_KIND_SPEED: _speed,
}
