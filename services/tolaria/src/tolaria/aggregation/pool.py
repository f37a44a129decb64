"""Flat buffers in which the gradients of several losses lie side by side; made once per topology and used again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from esper_core.errors import StateConflictError, ValidationError
from tolaria.aggregation.projection import add_up, weigh


class GradientShapeError(StateConflictError):
    """A parameter or its gradient has another shape than the place that was made for it."""


@dataclass(frozen=True, slots=True)
class Met:
    """How the losses met on one owner's parameters.

    Attributes
    ----------
    conflicts : int
        Pairs of losses whose gradients point against each other.
    pairs : int
        All pairs of the losses that reached this owner: n(n-1)/2.
    """

    conflicts: int
    pairs: int


@dataclass(frozen=True, slots=True)
class _Mask:
    """Where an owner's parameters and their entries lie."""

    parameters: slice
    entries: slice


class GradientPool:
    """Collects the gradients of some losses and puts their projected sum back.

    Owners have parameters of their own, so only losses on the same owner's parameters can conflict: each owner's part
    of the buffers is projected by itself. The host reads one small tensor per call of `give`, however many owners there
    are.

    Parameters
    ----------
    owners : Mapping[str, Sequence[nn.Parameter]]
        The parameters of each owner, by its name.
    losses : int
        How many losses meet.
    mean : bool
        Whether an owner gets the mean of the losses that reach it instead of their sum.

    Raises
    ------
    ValidationError
        If the parameters differ in type or device, and so cannot lie in one buffer.
    """

    def __init__(self, owners: Mapping[str, Sequence[nn.Parameter]], losses: int, *, mean: bool = False) -> None:
        self._parameters = [parameter for owner in owners.values() for parameter in owner]
        self._shapes = [parameter.shape for parameter in self._parameters]
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._masks = _masks(owners)
        self._mean = mean
        dtype, device = _common(self._parameters)
        self._rows_LN = torch.zeros(losses, sum(self._sizes), dtype=dtype, device=device)
        self._sum_N = torch.zeros_like(self._rows_LN[0])
        self._touched = [[False] * len(self._parameters) for _ in range(losses)]

    def take(self, loss: int) -> None:
        """Move the gradients that the parameters hold into a loss's row; they hold none afterwards.

        Raises
        ------
        GradientShapeError
            If a shape is no longer what it was when the buffers were made; copying would broadcast or mix it up.
        """
        touched = self._touched[loss]
        for index, (parameter, room) in enumerate(zip(self._parameters, self._rooms(self._rows_LN[loss]), strict=True)):
            gradient = parameter.grad
            touched[index] = gradient is not None
            if gradient is None:
                room.zero_()
                continue
            self._check(index, parameter, gradient)
            room.copy_(gradient)
            parameter.grad = None

    def give(self, order: random.Random) -> dict[str, Met]:
        """Give every parameter that a loss reached its part of the projected sum, and tell how the losses met.

        An owner that a single loss reached gets that loss's gradient, to the bit; a frozen one gets none.
        """
        reached = {name: self._reached(mask) for name, mask in self._masks.items()}
        products = self._products([name for name, rows in reached.items() if len(rows) > 1])
        met: dict[str, Met] = {}
        for name, rows in ((name, rows) for name, rows in reached.items() if rows):
            conflicts = 0
            if name in products:
                conflicts = self._project(self._masks[name].entries, products[name], len(rows), order)
            met[name] = Met(conflicts, len(rows) * (len(rows) - 1) // 2)
            self._hand_out(self._masks[name], self._sum_N if name in products else self._rows_LN[rows[0]])
        return met

    def _reached(self, mask: _Mask) -> list[int]:
        return [row for row, touched in enumerate(self._touched) if any(touched[mask.parameters])]

    def _products(self, names: Sequence[str]) -> dict[str, list[list[float]]]:
        """Return the inner products of the rows for some owners, read from the device at once."""
        if not names:
            return {}
        parts = (self._rows_LN[:, self._masks[name].entries] for name in names)
        return dict(zip(names, torch.stack([part_LN @ part_LN.T for part_LN in parts]).tolist(), strict=True))

    def _project(self, entries: slice, products_LL: list[list[float]], reached: int, order: random.Random) -> int:
        weighed = weigh(products_LL, order)
        sum_N = add_up(self._rows_LN[:, entries], weighed)
        self._sum_N[entries] = sum_N / reached if self._mean else sum_N
        return weighed.conflicts

    def _hand_out(self, mask: _Mask, buffer_N: Tensor) -> None:
        rooms = self._rooms(buffer_N)
        for index in range(mask.parameters.start, mask.parameters.stop):
            if any(touched[index] for touched in self._touched):
                self._parameters[index].grad = rooms[index]

    def _rooms(self, buffer_N: Tensor) -> list[Tensor]:
        parts = torch.split(buffer_N, self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _check(self, index: int, parameter: nn.Parameter, gradient: Tensor) -> None:
        expected = self._shapes[index]
        if parameter.shape != expected or gradient.shape != expected:
            owner = next(name for name, mask in self._masks.items() if index < mask.parameters.stop)
            raise GradientShapeError(
                f"A parameter of {owner} has shape {tuple(parameter.shape)} and a gradient of shape "
                f"{tuple(gradient.shape)}, but its place was made for {tuple(expected)}. Change shapes by growing only."
            )


def _masks(owners: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, _Mask]:
    counts = accumulate((len(owner) for owner in owners.values()), initial=0)
    sizes = accumulate((sum(parameter.numel() for parameter in owner) for owner in owners.values()), initial=0)
    places = zip(owners, pairwise(counts), pairwise(sizes), strict=True)
    return {name: _Mask(slice(*parameters), slice(*entries)) for name, parameters, entries in places}


def _common(parameters: Sequence[nn.Parameter]) -> tuple[torch.dtype, torch.device]:
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    if len(kinds) != 1:
        raise ValidationError(
            f"Gradients of {len(kinds)} types or devices cannot lie in one buffer.",
            field="spec.gradient_aggregation",
            allowed="sum, or pcgrad on a model of one type on one device",
        )
    return kinds.pop()
