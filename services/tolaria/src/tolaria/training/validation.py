"""Validation passes and the final test."""

from __future__ import annotations

from dataclasses import dataclass

from esper_tasks import evaluate
from tolaria.training.session import Session


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a whole split; accuracy or bits per character, whichever the task measures."""

    loss: float
    accuracy: float | None
    bits_per_character: float | None
    examples: int


def validate(session: Session) -> Scores:
    """Score the model on the validation split; not counted as training FLOPs."""
    return _scores(session, "validation")


def final_test(session: Session) -> Scores:
    """Score the model on the test split; called once, when training is over."""
    return _scores(session, "test")


def _scores(session: Session, split: str) -> Scores:
    with session.measuring():
        found = evaluate(session.task, session.host.model, getattr(session.data, split))
    measured = {session.task.metric_name: found.metric}
    return Scores(found.loss, measured.get("accuracy"), measured.get("bits_per_character"), found.examples)
