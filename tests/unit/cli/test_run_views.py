"""How a run is shown: what was not measured is null, and what is known before its end is told."""

from __future__ import annotations

import pytest

from esper_cli.run_views import FIGURES, run_summary, tell
from esper_core import leyline


def status(**fields: object) -> leyline.RunStatus:
    return leyline.RunStatus(
        training_run_id="run-1",
        state=leyline.RUN_STATE_RUNNING,
        progress=leyline.RunProgress(step=12, parameters=340, flops_used=5600),
        **fields,  # type: ignore[arg-type]
    )


def test_a_run_under_way_tells_how_far_it_is_and_nothing_that_only_its_end_shows() -> None:
    summary = run_summary(status())
    assert list(summary) == ["run_id", "state", "reason", *FIGURES, "seeds"]
    assert {name: summary[name] for name in FIGURES if summary[name] is not None} == {
        "steps": 12,
        "parameters_final": 340,
        "flops": 5600,
    }


def test_an_ended_run_tells_its_result_and_nulls_for_what_was_not_measured() -> None:
    result = leyline.RunResult(steps=60, accuracy=0.5, test_loss=1.5, parameters_final=400)
    summary = run_summary(status(result=result))
    assert (summary["steps"], summary["parameters_final"], summary["test_loss"]) == (60, 400, 1.5)
    assert summary["accuracy"] is None and summary["bits_per_character"] is None
    result.accuracy_measured, result.bits_per_character = True, 2.0
    summary = run_summary(status(result=result))
    assert (summary["accuracy"], summary["bits_per_character"]) == (0.5, 2.0)


def test_seeds_are_shown_in_a_table_with_a_blank_for_a_contribution_nobody_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seeds = [
        leyline.SeedState(seed_id="run-1/hidden/1", stage=leyline.SEED_STAGE_TRAINING),
        leyline.SeedState(seed_id="run-1/hidden/2", stage=leyline.SEED_STAGE_FOSSILIZED, contribution=0.25),
    ]
    tell(status(seeds=seeds), as_json=False)
    shown = capsys.readouterr().out
    assert "accuracy not measured" in shown and "TRAINING" in shown
    assert [line.count("+0.2500") for line in shown.splitlines() if "hidden" in line] == [0, 1]
