"""A run as the command line shows it: one JSON object for programs, lines and rows for people."""

from __future__ import annotations

from typing import Any, Final

from esper_cli.output import OUT, print_json, print_table
from esper_core import leyline

FIGURES: Final = (
    "steps",
    "accuracy",
    "bits_per_character",
    "test_loss",
    "parameters_initial",
    "parameters_final",
    "flops",
    "inference_flops_per_example",
    "wall_s",
    "rollbacks",
    "resumes",
)


def run_summary(status: leyline.RunStatus) -> dict[str, Any]:
    """Return the one JSON object by which a finished run is told; figures that were not measured are null."""
    figures = _result(status.result) if status.HasField("result") else _progress(status.progress)
    return {
        "run_id": status.training_run_id,
        "state": state_word(status.state),
        "reason": status.reason,
        **figures,
        "seeds": [seed_summary(seed) for seed in status.seeds],
    }


def seed_summary(seed: leyline.SeedState) -> dict[str, Any]:
    """Return a seed as plain data."""
    return {
        "seed_id": seed.seed_id,
        "site": seed.site,
        "blueprint_id": seed.blueprint_id,
        "stage": stage_word(seed.stage),
        "contribution": seed.contribution if seed.HasField("contribution") else None,
        "parameters": seed.parameter_count,
    }


def tell(status: leyline.RunStatus, as_json: bool) -> None:
    """Print how a run is."""
    summary = run_summary(status)
    if as_json:
        print_json(summary)
        return
    OUT.print(f"run {summary['run_id']}  {summary['state']}  {summary['reason']}")
    accuracy = "not measured" if summary["accuracy"] is None else f"{summary['accuracy']:.4f}"
    OUT.print(
        f"accuracy {accuracy}  parameters {summary['parameters_initial']} to {summary['parameters_final']}  "
        f"steps {summary['steps']}  FLOPs {summary['flops']:.3g}"
    )
    rows = (
        (seed["seed_id"], seed["blueprint_id"], seed["stage"], _number(seed["contribution"]))
        for seed in summary["seeds"]
    )
    if summary["seeds"]:
        print_table("", ("seed", "blueprint", "stage", "contribution"), rows)


def row(status: leyline.RunStatus) -> tuple[object, ...]:
    """Return the cells of a run in the list of runs."""
    accuracy = f"{status.result.accuracy:.4f}" if status.HasField("result") and status.result.accuracy_measured else ""
    return (
        status.training_run_id,
        status.spec.task,
        state_word(status.state),
        f"{status.progress.fraction:.0%}",
        status.progress.step,
        status.progress.parameters,
        accuracy,
        status.reason,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def state_word(state: leyline.RunState.ValueType) -> str:
    """Return the name of a run state without its prefix."""
    return leyline.RunState.Name(state).removeprefix("RUN_STATE_")


def stage_word(stage: leyline.SeedStage.ValueType) -> str:
    """Return the name of a seed stage without its prefix."""
    return leyline.SeedStage.Name(stage).removeprefix("SEED_STAGE_")


def _result(result: leyline.RunResult) -> dict[str, Any]:
    figures: dict[str, Any] = {name: getattr(result, name) for name in FIGURES}
    if not result.accuracy_measured:
        figures["accuracy"] = None
    if not result.HasField("bits_per_character"):
        figures["bits_per_character"] = None
    return figures


def _progress(progress: leyline.RunProgress) -> dict[str, Any]:
    known = {"steps": progress.step, "parameters_final": progress.parameters, "flops": progress.flops_used}
    return {**dict.fromkeys(FIGURES), **known}
