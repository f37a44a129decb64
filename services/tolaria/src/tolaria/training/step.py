"""One optimizer step: batch, forward, backward, check, update. Nothing else happens here.

A batch may go through the model in equal parts, whose gradients add up to those of the whole. That happens within one
step: no fence, snapshot or checkpoint lies between two parts, so there is no half-accumulated state to keep. A step
that fails in any part leaves weights and moments as they were, and is made again from its first part. Batch statistics,
where a model has any, are those of a part.

Where a teacher takes part, each part has a second loss, that of the host's answer from the teacher's. Both add up, or
meet as losses of their own where gradients are projected.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from esper_runtime.errors import UnreachedSeedError
from esper_tasks import Batch, mean_loss
from tolaria.training.optimizer import forget_gradients, gradient_norm
from tolaria.training.session import Session

Problem = Literal["", "non_finite_loss", "non_finite_gradient", "loss_explosion", "overflow"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave.

    Attributes
    ----------
    step : int
        Number of the step, from 1; the old number where nothing was updated.
    loss : float
        Mean loss of the batch.
    gradient_norm : float
        L2 norm of all gradients.
    seconds : float
        Wall time of the whole step.
    input_seconds : float
        Part of it spent on getting the batch.
    conflict_rate : float or None
        Share of the pairs of losses whose gradients point against each other; None where that was not looked at.
    distillation_loss : float or None
        Mean distillation loss of the batch times its weight; None where no teacher was asked.
    problem : str
        Empty when the update was made, else why it wasn't; after "overflow" the same batch is to come again.
    """

    step: int
    loss: float
    gradient_norm: float
    seconds: float
    input_seconds: float
    problem: Problem = ""
    conflict_rate: float | None = None
    distillation_loss: float | None = None


@dataclass(frozen=True, slots=True)
class _Losses:
    """What a batch, or a part of it, cost: its mean loss, and the distillation loss where a teacher was asked."""

    task: float = 0.0
    distillation: float | None = None

    def __add__(self, other: _Losses) -> _Losses:
        taught = other.distillation if self.distillation is None else self.distillation + (other.distillation or 0.0)
        return _Losses(self.task + other.task, taught)


def training_step(session: Session, explosion_factor: float) -> StepResult:
    """Make one step, or find out why it must not be made; then weights and moments are as before."""
    began = time.perf_counter()
    batch = session.next_batch()
    fed = time.perf_counter()
    losses, conflict_rate = _forward_backward(session, batch)
    norm = _norm(session)
    problem = _diagnose(session, losses, norm, explosion_factor)
    if not problem:
        _update(session, losses.task, norm)
    elif session.precision is not None:
        problem = _settled(session, problem)
    return StepResult(
        step=session.counters.step,
        loss=losses.task,
        gradient_norm=norm,
        seconds=time.perf_counter() - began,
        input_seconds=fed - began,
        problem=problem,
        conflict_rate=conflict_rate,
        distillation_loss=losses.distillation,
    )


def _forward_backward(session: Session, batch: Batch) -> tuple[_Losses, float | None]:
    session.learning_rate.apply(session.optimizer, session.fraction_after_step)
    forget_gradients(session.optimizer)
    parts = session.plan.gradient_accumulation
    share, apart = 1.0 / parts, session.losses_apart > 1
    losses = _Losses()
    for index, part in enumerate(_in_parts(batch, parts) if parts > 1 else [batch]):
        losses += _part_backward(session, part, share, index if apart else None)
    if not apart:
        return losses, None
    # A generator of each step's own: a resumed run draws what the interrupted one would have drawn.
    order = random.Random(f"{session.plan.random_seed}/{session.counters.step}")
    return losses, session.gradients.give(order)


def _in_parts(batch: Batch, count: int) -> Iterator[Batch]:
    size = len(batch) // count
    for inputs, targets in zip(torch.split(batch.inputs, size), torch.split(batch.targets, size), strict=True):
        yield Batch(inputs, targets)


def _part_backward(session: Session, part: Batch, share: float, index: int | None) -> _Losses:
    """Send the gradients of a part on their way; with an index each loss goes into a row of its own."""
    teacher = session.asked_teacher
    answer = None if teacher is None else teacher.answer(part.inputs)
    losses = _forward(session, part, answer)
    goals = _goals(session, losses, share, apart=index is not None)
    for number, goal in enumerate(goals):
        goal.backward(retain_graph=number + 1 < len(goals))  # type: ignore[no-untyped-call]
        for seed_id in session.shadowed:
            # A seed in shadow gets its gradient; nothing else gets any from this pass.
            with session.host.shadow(seed_id):
                beside = _goals(session, _forward(session, part, answer), share, apart=index is not None)
                beside[number].backward()  # type: ignore[no-untyped-call]
        if index is not None:
            session.gradients.take(index * len(goals) + number)
    told = [float(loss.detach()) * share for loss in losses]
    return _Losses(told[0], told[1] if answer is not None else None)


def _forward(session: Session, part: Batch, answer: Any) -> list[Tensor]:
    """Return the losses of a pass: the task's, and the distillation loss where a teacher has answered."""
    outputs = session.outputs(part.inputs)
    losses = [mean_loss(session.task, outputs, part.targets)]
    if not losses[0].requires_grad:
        raise UnreachedSeedError(
            "The loss depends on nothing that learns: while the host is still, it must see the seed."
        )
    if answer is not None and session.distillation is not None:
        losses.append(session.distillation.loss(outputs, answer))
    return losses


def _goals(session: Session, losses: list[Tensor], share: float, *, apart: bool) -> list[Tensor]:
    goals = losses if apart or len(losses) == 1 else [losses[0] + losses[1]]
    goals = goals if share == 1.0 else [goal * share for goal in goals]
    return goals if session.precision is None else [session.precision.scaled(goal) for goal in goals]


def _norm(session: Session) -> float:
    groups = session.optimizer.param_groups
    if session.precision is not None:
        session.precision.unscale(session.optimizer)
    return gradient_norm(parameter for group in groups for parameter in group["params"]) or 0.0


def _diagnose(session: Session, losses: _Losses, norm: float, explosion_factor: float) -> Problem:
    if not math.isfinite(losses.task + (losses.distillation or 0.0)):
        return "non_finite_loss"
    if not math.isfinite(norm):
        return "non_finite_gradient"
    first = session.statistics.first_loss
    if first is not None and losses.task > explosion_factor * first:
        return "loss_explosion"
    return ""


def _settled(session: Session, problem: Problem) -> Problem:
    """Blame the loss scale for gradients that are not finite, while it can be lowered; the FLOPs are spent."""
    assert session.precision is not None
    if not session.precision.overflowed() or problem != "non_finite_gradient":
        return problem
    session.counters.flops += session.cost.step
    return "overflow"


def _update(session: Session, loss: float, norm: float) -> None:
    cost = session.cost.step
    session.optimizer.step()
    if session.precision is not None:
        session.precision.settle()
    session.statistics.observe(loss, norm)
    session.counters.step += 1
    session.counters.flops += cost
