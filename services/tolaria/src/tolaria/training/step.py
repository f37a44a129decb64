"""One optimizer step: batch, forward, backward, check, update. Nothing else happens here.

A batch may go through the model in equal parts, whose gradients add up to those of the whole. That happens within one
step: no fence, snapshot or checkpoint lies between two parts, so there is no half-accumulated state to keep. A step
that fails in any part leaves weights and moments as they were, and is made again from its first part. Batch statistics,
where a model has any, are those of a part.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch import Tensor

from esper_runtime.counterfactual import left_out
from esper_tasks import Batch, mean_loss
from tolaria.aggregation.attribution import FirstOrder
from tolaria.aggregation.pool import Met
from tolaria.training.optimizer import forget_gradients, gradient_norm
from tolaria.training.session import Scaled, Session

_NOT_LOOKED_AT: Final[Mapping[str, Met]] = MappingProxyType({})
Problem = Literal["", "non_finite_loss", "non_finite_gradient", "loss_explosion"]


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
    met : Mapping[str, Met]
        How several losses met, by owner; empty where that was not looked at.
    problem : str
        Empty when the update was made, else why it wasn't.
    """

    step: int
    loss: float
    gradient_norm: float
    seconds: float
    input_seconds: float
    met: Mapping[str, Met]
    problem: Problem = ""

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
    loss, met = _forward_backward(session, batch)
    if session.scaled:
        _scale(session.scaled)
    norm = _norm(session)
    problem = _diagnose(session, loss, norm, explosion_factor)
    if not problem:
        _update(session, loss, norm)
    return StepResult(
        step=session.counters.step,
        loss=loss,
        gradient_norm=norm,
        seconds=time.perf_counter() - began,
        input_seconds=fed - began,
        problem=problem,
        met=met,
    )


def _forward_backward(session: Session, batch: Batch) -> tuple[float, Mapping[str, Met]]:
    session.learning_rate.apply(session.optimizer, session.fraction_after_step)
    forget_gradients(session.optimizer)
    parts = session.plan.gradient_accumulation
    if session.contested:
        return _with_and_without(session, batch, parts), _projected(session)
    if parts == 1:
        return float(_part_backward(session, batch, 1.0)), _NOT_LOOKED_AT
    if session.plan.gradient_aggregation == "pcgrad" and session.plan.pcgrad_losses == "microbatch":
        return _side_by_side(session, batch, parts), _projected(session)
    return _one_after_the_other(session, batch, parts), _NOT_LOOKED_AT


def _one_after_the_other(session: Session, batch: Batch, parts: int) -> float:
    return _mean([_part_backward(session, part, 1.0 / parts) for part in _in_parts(batch, parts)])


def _side_by_side(session: Session, batch: Batch, parts: int) -> float:
    losses = []
    for index, part in enumerate(_in_parts(batch, parts)):
        losses.append(_part_backward(session, part, 1.0 / parts))
        session.gradients.take(index)
    return _mean(losses)


def _with_and_without(session: Session, batch: Batch, parts: int) -> float:
    """Make the passes of the model as it is, then those without each contested seed, each in a row of its own."""
    loss = _one_after_the_other(session, batch, parts)
    session.gradients.take(0)
    for row, seed_id in enumerate(session.contested, 1):
        with left_out(session.host, seed_id):
            for part in _in_parts(batch, parts):
                _backward(session, part, 1.0 / parts)
        session.gradients.take(row)
    return loss


def _projected(session: Session) -> Mapping[str, Met]:
    # A generator of each step's own: a resumed run draws what the interrupted one would have drawn.
    return session.gradients.give(random.Random(f"{session.plan.random_seed}/{session.counters.step}"))


def _in_parts(batch: Batch, count: int) -> Iterator[Batch]:
    size = len(batch) // count
    for inputs, targets in zip(torch.split(batch.inputs, size), torch.split(batch.targets, size), strict=True):
        yield Batch(inputs, targets)


def _mean(losses: Sequence[Tensor]) -> float:
    # Read at once, after the last pass: reading each would hold the device up between two parts.
    read: list[float] = torch.stack(list(losses)).tolist()
    return sum(loss * (1.0 / len(losses)) for loss in read)


def _part_backward(session: Session, batch: Batch, share: float) -> Tensor:
    loss = _backward(session, batch, share)
    for seed_id in session.shadowed:
        # A seed in shadow gets its gradient; nothing else gets any from this pass.
        with session.host.shadow(seed_id):
            _backward(session, batch, share)
    return loss.detach()


def _backward(session: Session, batch: Batch, share: float) -> Tensor:
    loss: Tensor = mean_loss(session.task, session.host.model(batch.inputs), batch.targets)
    (loss if share == 1.0 else loss * share).backward()  # type: ignore[no-untyped-call]
    return loss


def _scale(owners: Sequence[Scaled]) -> None:
    for owner in owners:
        gradients = [parameter.grad for parameter in owner.parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, owner.scale)


def _norm(session: Session) -> float:
    groups = session.optimizer.param_groups
    return gradient_norm(parameter for group in groups for parameter in group["params"]) or 0.0


def _diagnose(session: Session, loss: float, norm: float, explosion_factor: float) -> Problem:
    if not math.isfinite(loss):
        return "non_finite_loss"
    if not math.isfinite(norm):
        return "non_finite_gradient"
    first = session.statistics.first_loss
    if first is not None and loss > explosion_factor * first:
        return "loss_explosion"
    return ""


def _update(session: Session, loss: float, norm: float) -> None:
    cost = session.cost.step
    if session.first_order is None:
        session.optimizer.step()
    else:
        _attributed_step(session, session.first_order)
    session.statistics.observe(loss, norm)
    session.counters.step += 1
    session.counters.flops += cost


def _attributed_step(session: Session, first_order: FirstOrder) -> None:
    scales = {parameter: owner.scale for owner in session.scaled for parameter in owner.parameters}
    with first_order.stepping(scales, session.counters.rollbacks):
        session.optimizer.step()
