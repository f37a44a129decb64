"""One optimizer step: batch, forward, backward, check, update. Nothing else happens here.

However many passes a step makes, no fence, snapshot or checkpoint lies between two of them, so there is no
half-accumulated state to keep. A step that fails in any of them leaves weights and moments as they were, and is made
again from its first pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from tolaria.aggregation.attribution import FirstOrder
from tolaria.aggregation.pool import Met
from tolaria.training.optimizer import all_parameters, forget_gradients, gradient_norm, update
from tolaria.training.passes import make_passes
from tolaria.training.session import Scaled, Session

Problem = Literal["", "non_finite_loss", "non_finite_gradient", "loss_explosion", "overflow"]


class StepResult(NamedTuple):
    """What one step gave; a tuple, because one is made in every step and a frozen dataclass costs four times as much.

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
    met : Mapping[str, Met]
        How several losses met, by owner; empty where that was not looked at.
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
    met: Mapping[str, Met]
    problem: Problem = ""
    distillation_loss: float | None = None

    @property
    def conflict_rate(self) -> float | None:
        """Share of the pairs of losses whose gradients point against each other, over all owners; None if unknown."""
        pairs = sum(met.pairs for met in self.met.values())
        return sum(met.conflicts for met in self.met.values()) / max(1, pairs) if self.met else None


def training_step(session: Session, explosion_factor: float) -> StepResult:
    """Make one step, or find out why it must not be made; then weights and moments are as before."""
    began = time.perf_counter()
    batch = session.next_batch()
    fed = time.perf_counter()
    session.learning_rate.apply(session.optimizer, session.fraction_after_step)
    learning = all_parameters(session.optimizer)
    forget_gradients(learning)
    loss, taught, met = make_passes(session, batch)
    if session.precision is not None:
        session.precision.unscale(session.optimizer)
    if session.scaled:
        _scale(session.scaled)
    norm = gradient_norm(learning) or 0.0
    problem = _diagnose(session, loss, taught, norm, explosion_factor)
    if not problem:
        _update(session, loss, norm)
    elif session.precision is not None:
        problem = _settled(session, problem)
    return StepResult(
        step=session.counters.step,
        loss=loss,
        gradient_norm=norm,
        seconds=time.perf_counter() - began,
        input_seconds=fed - began,
        problem=problem,
        met=met,
        distillation_loss=taught,
    )


def _scale(owners: Sequence[Scaled]) -> None:
    for owner in owners:
        gradients = [parameter.grad for parameter in owner.parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, owner.scale)


def _diagnose(session: Session, loss: float, taught: float | None, norm: float, explosion_factor: float) -> Problem:
    if not math.isfinite(loss if taught is None else loss + taught):
        return "non_finite_loss"
    if not math.isfinite(norm):
        return "non_finite_gradient"
    first = session.statistics.first_loss
    if first is not None and loss > explosion_factor * first:
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
    if session.first_order is None:
        update(session.optimizer)
    else:
        _attributed_step(session, session.first_order)
    if session.precision is not None:
        session.precision.settle()
    session.statistics.observe(loss, norm)
    session.counters.step += 1
    session.counters.flops += cost


def _attributed_step(session: Session, first_order: FirstOrder) -> None:
    scales = {parameter: owner.scale for owner in session.scaled for parameter in owner.parameters}
    with first_order.stepping(scales, session.counters.rollbacks):
        session.optimizer.step()
