"""The profiler: a bounded window, a trace where the settings say, and no run that ends because of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import SettingsError
from esper_core.journal import read_journal
from support.tolaria_runs import SmallRun, letter_spec, small_run
from tolaria.safety.profiler import LONGEST_WINDOW, Window
from tolaria.settings import WorkerSettings
from tolaria.training.loop import TrainingLoop
from tolaria.worker.ending import conclude


def trained(folder: Path, **settings: object) -> SmallRun:
    run = small_run(folder / "run", letter_spec(max_steps=6), **settings)
    conclude(run.parts, run.board, TrainingLoop(run.parts).run(), 0)
    run.events.close()
    return run


def notices(run: SmallRun) -> list[str]:
    events = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    return [event.emergency.reason for event in events if event.HasField("emergency")]


def optimizer_steps(trace: Path) -> int:
    events = json.loads(trace.read_text())["traceEvents"]
    return sum(event.get("name", "").startswith("Optimizer.step") for event in events)


@pytest.mark.req("TOL-17")
def test_only_the_window_is_in_the_trace_and_it_is_bounded(tmp_path: Path) -> None:
    run = trained(tmp_path, profile_from_step=2, profile_steps=3, profile_dir=tmp_path / "traces")
    (trace,) = (tmp_path / "traces").iterdir()
    assert trace.name == f"{run.session.plan.run_id}-2.trace.json"
    assert optimizer_steps(trace) == 3 and notices(run) == []
    with pytest.raises(ValueError, match="profile_steps"):
        WorkerSettings(profile_steps=LONGEST_WINDOW + 1)


@pytest.mark.req("TOL-17")
def test_a_window_that_the_end_of_the_run_cuts_short_is_written_all_the_same(tmp_path: Path) -> None:
    trained(tmp_path, profile_from_step=5, profile_steps=100, profile_dir=tmp_path / "traces")
    (trace,) = (tmp_path / "traces").iterdir()
    assert optimizer_steps(trace) == 2


@pytest.mark.req("TOL-18")
def test_a_trace_that_cannot_be_written_is_told_and_the_run_completes(tmp_path: Path) -> None:
    (tmp_path / "traces").write_text("A file where a folder is wanted.")
    run = trained(tmp_path, profile_from_step=1, profile_dir=tmp_path / "traces")
    assert run.board.state == leyline.RUN_STATE_COMPLETED
    (notice,) = notices(run)
    assert notice.startswith("The profiler failed and is off:") and "traces" in notice


@pytest.mark.req("TOL-19")
def test_a_torch_without_a_profiler_is_told_and_the_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.profiler, "supported_activities", set)
    run = trained(tmp_path, profile_from_step=1, profile_dir=tmp_path / "traces")
    assert run.board.state == leyline.RUN_STATE_COMPLETED
    assert notices(run) == ["The profiler failed and is off: this build of torch cannot profile"]
    assert not (tmp_path / "traces").exists()


@pytest.mark.req("TOL-21")
def test_profiling_without_a_folder_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        small_run(tmp_path, profile_from_step=1)
    assert refused.value.variable == "TOLARIA_PROFILE_DIR"
    assert Window.of(0, 20, None) is None
