"""A teacher for tests of the trainer: a run of Letter that has ended, requests to learn from it, and its students."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from esper_core import leyline
from support.tolaria_runs import letter_spec, open_letter, small_run
from tolaria.state.capture import capture_session
from tolaria.training.session import Session
from tolaria.training.step import StepResult, training_step
from tolaria.worker.start import begin_teaching


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


def student(source: Path, weight: float | None = None, **changes: object) -> Session:
    """A session that has begun to learn from what lies in a folder."""
    session = open_letter(letter_spec(teacher=taught_by(source, weight=weight), **changes), run_id="run")
    change = begin_teaching(session)
    assert change is not None and change.teacher_id == session.teacher_id
    return session


def train(session: Session, steps: int) -> list[StepResult]:
    """Make some steps, and return what each of them found."""
    return [training_step(session, 4.0) for _ in range(steps)]


def state_of(session: Session) -> dict[str, Tensor]:
    """Everything that a step changes: weights, buffers, moments and torch's random state."""
    snapshot = capture_session(session, 0.0)
    moments = snapshot.optimizer.tensors if snapshot.optimizer else {}
    flat = {f"{name}/{key}": tensor for name, held in moments.items() for key, tensor in held.items()}
    return {**snapshot.parameters, **snapshot.buffers, **flat, "random": snapshot.random.torch_cpu}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two states have the same names and the same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
