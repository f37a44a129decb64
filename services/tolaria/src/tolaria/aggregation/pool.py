"""Flat buffers in which the gradients of several losses lie side by side; made once per topology and used again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from esper_core.errors import ValidationError
from tolaria.aggregation.projection import project


class GradientPool:
    """Collects the gradients of some losses and puts their projected sum back.

    Owners have parameters of their own, so only losses on the same owner's parameters can conflict: each owner's part
    of the buffers is projected by itself.

    Parameters
    ----------
    owners : Sequence[Sequence[nn.Parameter]]
        The parameters of each owner.
    losses : int
        How many losses meet.

    Raises
    ------
    ValidationError
        If the parameters differ in type or device, and so cannot lie in one buffer.
    """

    def __init__(self, owners: Sequence[Sequence[nn.Parameter]], losses: int) -> None:
        self._parameters = [parameter for owner in owners for parameter in owner]
        self._sizes = [parameter.numel() for parameter in self._parameters]
        counts = accumulate((len(owner) for owner in owners), initial=0)
        self._owners = [slice(start, end) for start, end in pairwise(counts)]
        dtype, device = _common(self._parameters)
        self._rows_LN = torch.zeros(losses, sum(self._sizes), dtype=dtype, device=device)
        self._sum_N = torch.zeros_like(self._rows_LN[0])
        self._touched = [False] * len(self._parameters)

    def take(self, loss: int) -> None:
        """Move the gradients that the parameters hold into a loss's row; they hold none afterwards."""
        if loss == 0:
            self._touched = [False] * len(self._parameters)
        for index, (parameter, room) in enumerate(self._rooms(self._rows_LN[loss])):
            if parameter.grad is None:
                room.zero_()
            else:
                room.copy_(parameter.grad)
                self._touched[index] = True
                parameter.grad = None

    def give(self, order: random.Random) -> float:
        """Give every parameter that a loss reached its part of the projected sum, and return the conflict rate.

        The rate is that of conflicting pairs among all pairs of losses, over all owners.
        """
        conflicts = pairs = 0
        for owner in self._owners:
            if not any(self._touched[owner]):
                continue  # A frozen host has no gradient, and counts for no pair.
            start = sum(self._sizes[: owner.start])
            part = slice(start, start + sum(self._sizes[owner]))
            projected = project(self._rows_LN[:, part], order)
            self._sum_N[part] = projected.gradient_N
            conflicts, pairs = conflicts + projected.conflicts, pairs + projected.pairs
        for touched, (parameter, room) in zip(self._touched, self._rooms(self._sum_N), strict=True):
            parameter.grad = room if touched else None
        return conflicts / max(1, pairs)

    def _rooms(self, buffer_N: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for parameter, room in zip(self._parameters, torch.split(buffer_N, self._sizes), strict=True):
            yield parameter, room.view_as(parameter)


def _common(parameters: Sequence[nn.Parameter]) -> tuple[torch.dtype, torch.device]:
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    if len(kinds) != 1:
        raise ValidationError(
            f"Gradients of {len(kinds)} types or devices cannot lie in one buffer.",
            field="spec.gradient_aggregation",
            allowed="sum, or pcgrad on a model of one type on one device",
        )
    return kinds.pop()
