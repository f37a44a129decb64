"""The passes of one step: they leave the gradients of the batch in the parameters, and nothing else.

A batch may go through the model in equal parts, whose gradients add up to those of the whole; batch statistics, where a
model has any, are those of a part. Where a teacher takes part, each pass has a second loss, that of the host's answer
from the teacher's, which adds to the first. Where gradients are projected, losses meet in one of two ways:

    side by side       every loss of every part, the teacher's too, has a row of its own
    with and without   the batch as the model is, and the batch without each contested seed; the teacher's loss is part
                       of every pass

Gradients are projected before a loss scale is taken off them: it is a power of two, so that nothing differs by a bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from esper_runtime.counterfactual import left_out
from esper_runtime.errors import UnreachedSeedError
from esper_tasks import Batch, mean_loss
from tolaria.aggregation.pool import Met
from tolaria.training.session import Session

_NOT_LOOKED_AT: Final[Mapping[str, Met]] = MappingProxyType({})

Passed: TypeAlias = tuple[float, float | None, Mapping[str, Met]]
"""Mean loss of the batch; that of the teacher, None where none was asked; how several losses met, by owner."""

Asked: TypeAlias = tuple[Batch, Any]
"""A part of a batch and the teacher's answer to it, None where no teacher takes part."""


def make_passes(session: Session, batch: Batch) -> Passed:
    """Make all passes of a step.

    Raises
    ------
    UnreachedSeedError
        If a loss depends on nothing that learns.
    """
    if session.plain:
        return _plain_pass(session, batch), None, _NOT_LOOKED_AT
    if session.contested:
        losses = _with_and_without(session, list(_asked(session, batch)))
    elif session.losses_apart > 1:
        losses = _side_by_side(session, _asked(session, batch))
    else:
        return *_means(_one_after_the_other(session, _asked(session, batch))), _NOT_LOOKED_AT
    # A generator of each step's own: a resumed run draws what the interrupted one would have drawn.
    met = session.gradients.give(random.Random(f"{session.plan.random_seed}/{session.counters.step}"))
    return *_means(losses), met


def _plain_pass(session: Session, batch: Batch) -> float:
    loss = mean_loss(session.task, session.host.model(batch.inputs), batch.targets)
    if not loss.requires_grad:
        raise _unreached()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.item())


def _one_after_the_other(session: Session, parts: Iterator[Asked] | Sequence[Asked]) -> list[Tensor]:
    share = 1.0 / session.plan.gradient_accumulation
    return [_part_backward(session, part, share, answer) for part, answer in parts]


def _side_by_side(session: Session, parts: Iterator[Asked]) -> list[Tensor]:
    each = session.losses_apart // session.plan.gradient_accumulation
    return [_part_apart(session, part, answer, index * each) for index, (part, answer) in enumerate(parts)]


def _with_and_without(session: Session, parts: Sequence[Asked]) -> list[Tensor]:
    """Make the passes of the model as it is, then those without each contested seed, each in a row of its own."""
    losses = _one_after_the_other(session, parts)
    session.gradients.take(0)
    for row, seed_id in enumerate(session.contested, 1):
        with left_out(session.host, seed_id):
            for part, answer in parts:
                _backward(session, part, 1.0 / len(parts), answer)
        session.gradients.take(row)
    return losses


def _asked(session: Session, batch: Batch) -> Iterator[Asked]:
    teacher, size = session.asked_teacher, len(batch) // session.plan.gradient_accumulation
    for inputs, targets in zip(torch.split(batch.inputs, size), torch.split(batch.targets, size), strict=True):
        yield Batch(inputs, targets), None if teacher is None else teacher.answer(inputs)


def _part_backward(session: Session, part: Batch, share: float, answer: Any) -> Tensor:
    """Add the gradients of a part, and return its losses: the task's alone, or followed by the teacher's."""
    losses = _backward(session, part, share, answer)
    for seed_id in session.shadowed:
        # A seed in shadow gets its gradient; nothing else gets any from this pass.
        with session.host.shadow(seed_id):
            _backward(session, part, share, answer)
    return losses


def _backward(session: Session, part: Batch, share: float, answer: Any) -> Tensor:
    outputs = session.outputs(part.inputs)
    loss: Tensor = mean_loss(session.task, outputs, part.targets)
    if not loss.requires_grad:
        raise _unreached()
    if answer is None:
        _send_back(session, loss, share)
        return loss.detach()
    taught = _taught(session, outputs, answer)
    _send_back(session, loss + taught, share)
    return torch.stack([loss.detach(), taught.detach()])


def _send_back(session: Session, loss: Tensor, share: float, *, again: bool = False) -> None:
    part = loss if share == 1.0 else loss * share
    scaled = part if session.precision is None else session.precision.scaled(part)
    scaled.backward(retain_graph=again)  # type: ignore[no-untyped-call]


def _part_apart(session: Session, part: Batch, answer: Any, row: int) -> Tensor:
    """Move the gradients of each loss of a part into a row of its own, from `row` on, and return the losses."""
    losses = _losses(session, part, answer)
    share = 1.0 / session.plan.gradient_accumulation
    for number, loss in enumerate(losses):
        # The teacher's loss goes back through the same graph.
        _send_back(session, loss, share, again=number + 1 < len(losses))
        for seed_id in session.shadowed:
            with session.host.shadow(seed_id):
                _send_back(session, _losses(session, part, answer)[number], share)
        session.gradients.take(row + number)
    return torch.stack([loss.detach() for loss in losses])


def _losses(session: Session, part: Batch, answer: Any) -> list[Tensor]:
    outputs = session.outputs(part.inputs)
    loss: Tensor = mean_loss(session.task, outputs, part.targets)
    if not loss.requires_grad:
        raise _unreached()
    return [loss] if answer is None else [loss, _taught(session, outputs, answer)]


def _unreached() -> UnreachedSeedError:
    return UnreachedSeedError("The loss depends on nothing that learns: while the host is still, it must see the seed.")


def _taught(session: Session, outputs: Tensor, answer: Any) -> Tensor:
    assert session.distillation is not None
    return session.distillation.loss(outputs, answer)


def _means(losses: Sequence[Tensor]) -> tuple[float, float | None]:
    # Read at once, after the last pass: reading each would hold the device up between two parts.
    rows: list[list[float]] = torch.stack(list(losses)).reshape(len(losses), -1).tolist()
    task, *taught = [sum(loss * (1.0 / len(rows)) for loss in column) for column in zip(*rows, strict=True)]
    return task, taught[0] if taught else None
