"""From a closed window to its FieldReport."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from esper_core import leyline
from esper_core.clocks import to_timestamp
from tamiyo.reporting.window import Close, Window, WindowRules
from tamiyo.reporting.worth import Evidence, outcome_of

_ABORTED: Final = leyline.FIELD_REPORT_OUTCOME_ABORTED
_NOTES: Final[dict[Close, str]] = {
    "over": "The window is over.",
    "run_ended": "The run reached its end within the window.",
    "run_broken": "The run broke off within the window.",
    "no_seed": "No seed came of the command: Kasmina refused it, or its kernel never was ready.",
}


def report_id(command_id: str) -> str:
    """Return the id of a command's only report."""
    return f"fr-synth-{command_id}"


def report_of(window: Window, close: Close, rules: WindowRules, at: datetime) -> leyline.FieldReport:
    """Build the report.

    Parameters
    ----------
    window : Window
        A window that has closed.
    close : Close
        How it closed.
    rules : WindowRules
        Lengths and the change of loss that counts as none.
    at : datetime
        Wall time.
    """
    opening, evidence = window.opening, evidence_of(window)
    aborted = close in ("run_broken", "no_seed") or (close == "run_ended" and not _told(window))
    outcome = _ABORTED if aborted else outcome_of(evidence, rules.neutral_change)
    last = window.last
    return leyline.FieldReport(
        version=leyline.LEYLINE_VERSION,
        report_id=report_id(opening.command_id),
        command_id=opening.command_id,
        training_run_id=opening.run_id,
        seed_id=window.seed_id,
        blueprint_id=opening.blueprint_id,
        outcome=leyline.FieldReportOutcome.ValueType(outcome),
        observation_window_epochs=max(0, last.epoch - opening.epoch) if last else 0,
        window_start_step=opening.step + 1,
        window_end_step=max(opening.step + 1, last.step) if last else opening.step + 1,
        issued_at=to_timestamp(at),
        policy_version=opening.policy_version,
        follow_up_actions=window.follow_ups,
        delta=_delta(window),
        extra_metrics=_extra(window),
        notes=_notes(window, evidence, close),
        operation=leyline.SeedOperation.ValueType(opening.operation),
        site=opening.site,
    )


def evidence_of(window: Window) -> Evidence:
    """Return what a window showed."""
    before, after, _ = losses_of(window)
    seed = window.seed
    return Evidence(
        operation=window.opening.operation,
        kept=window.kept,
        removed=window.gone,
        contribution_low=seed.contribution_low if seed else None,
        contribution_high=seed.contribution_high if seed else None,
        loss_before=before,
        loss_after=after,
    )


def losses_of(window: Window) -> tuple[float | None, float | None, bool]:
    """Return the loss before and after, and whether both are validation losses."""
    if window.opening.validation is not None and window.validations:
        return window.opening.validation.loss, window.validations[-1].loss, True
    after = window.last.figures.loss_ewma if window.last is not None else None
    return window.opening.loss, after, False


def _told(window: Window) -> bool:
    """Tell whether a window that the end of the run cut short saw enough to be judged."""
    if window.opening.operation == leyline.SEED_OPERATION_GERMINATE:
        return window.settled or window.kept
    return True


def _delta(window: Window) -> leyline.FieldReportDelta:
    opening, delta, last = window.opening, leyline.FieldReportDelta(), window.last
    delta.risk_index, delta.risk_score = opening.risk_index, opening.risk_score
    delta.tamiyo_latency_ms = opening.evaluation_ms
    before, after, validated = losses_of(window)
    if validated and before is not None and after is not None:
        changes = [one.loss - before for one in window.validations]
        delta.loss_delta, delta.loss_delta_min, delta.loss_delta_max = after - before, min(changes), max(changes)
    if window.seed is not None and window.seed.contribution is not None:
        delta.contribution = window.seed.contribution
    if opening.operation == leyline.SEED_OPERATION_GERMINATE:
        delta.parameters_added = window.seed.parameter_count if window.seed is not None and window.kept else 0
    if last is not None:
        for name in ("hook_latency_ms", "kasmina_apply_ms", "kasmina_finalize_ms"):
            value = getattr(last.figures, name)
            if value is not None:
                setattr(delta, name, value)
    return delta


def _extra(window: Window) -> list[leyline.NamedNumber]:
    opening, last, seed = window.opening, window.last, window.seed
    named: list[tuple[str, float | None, str]] = [
        ("training_loss_before", opening.loss, ""),
        ("training_loss_after", last.figures.loss_ewma if last else None, ""),
        ("training_loss_min", window.loss_min, ""),
        ("training_loss_max", window.loss_max, ""),
        ("validation_loss_before", opening.validation.loss if opening.validation else None, ""),
        ("validation_loss_after", window.validations[-1].loss if window.validations else None, ""),
        ("validation_accuracy_before", opening.validation.accuracy if opening.validation else None, ""),
        ("validation_accuracy_after", window.validations[-1].accuracy if window.validations else None, ""),
        ("contribution_low", seed.contribution_low if seed else None, ""),
        ("contribution_high", seed.contribution_high if seed else None, ""),
        ("seed_stage", float(seed.stage) if seed else None, ""),
        ("flops_in_window", float(last.flops_used - opening.flops_used) if last else None, "FLOP"),
    ]
    return [leyline.NamedNumber(name=name, value=value, unit=unit) for name, value, unit in named if value is not None]


def _notes(window: Window, evidence: Evidence, close: Close) -> str:
    parts = [_NOTES[close]]
    if window.kept:
        parts.append("Its seed is part of the model.")
    elif window.gone:
        parts.append("Its seed was taken out.")
    if evidence.contribution_low is not None and evidence.contribution_high is not None:
        interval = f"{evidence.contribution_low:.4f} to {evidence.contribution_high:.4f}"
        parts.append(f"The seed lowers held-out loss by {interval} (95 % interval).")
    if evidence.change is not None:
        what = "Validation" if losses_of(window)[2] else "Smoothed training"
        parts.append(f"{what} loss changed by {100 * evidence.change:+.1f} %.")
    return " ".join(parts)
