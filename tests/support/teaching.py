"""A teacher for tests of the trainer: a run of Letter that has ended, and requests to learn from it."""

from __future__ import annotations

from pathlib import Path

from esper_core import leyline
from support.tolaria_runs import letter_spec, small_run
from tolaria.training.step import training_step


def ended_run(folder: Path, steps: int = 60, **changes: object) -> Path:
    """Train a run for some steps, and return the folder of its last checkpoint."""
    run = small_run(folder, letter_spec(**{"max_steps": steps, "random_seed": 3, **changes}))
    for _ in range(steps):
        training_step(run.session, 4.0)
    run.parts.keeper.checkpoint("final")
    run.events.close()
    (record,) = run.store.records()
    return record.path


def taught_by(source: Path, **changes: object) -> leyline.TeacherSpec:
    """A request to learn from what lies in a folder."""
    return leyline.TeacherSpec(source=str(source), **changes)  # type: ignore[arg-type]
