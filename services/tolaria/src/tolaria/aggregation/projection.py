"""Projecting conflicting gradients (PCGrad; Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020).

Each gradient loses its part against every other one with which it conflicts, one after the other in random order,
always measured against the others as they were. All of it happens in the span of the gradients, so their inner products
are enough to find by how much each of them counts in the sum; the long vectors are read once for those, and once more
to be added up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Weighed:
    """By how much each of some gradients counts in the projected sum.

    Attributes
    ----------
    weights_L : tuple of float
        Empty where nothing conflicts, and so each of them counts by 1.
    conflicts : int
        Pairs of losses whose gradients point against each other.
    """

    weights_L: tuple[float, ...]
    conflicts: int


def weigh(products_LL: Sequence[Sequence[float]], order: random.Random) -> Weighed:
    """Find the weights of the projected sum from the inner products of the gradients.

    Parameters
    ----------
    products_LL : Sequence[Sequence[float]]
        Inner product of each pair; one that is not finite makes weights that are not.
    order : random.Random
        Rules in which order each gradient meets the others.
    """
    count = len(products_LL)
    conflicts = sum(products_LL[i][j] < 0 for i in range(count) for j in range(i))
    if not conflicts:
        return Weighed((), 0)
    rows = [_weights(products_LL, row, order) for row in range(count)]
    return Weighed(tuple(sum(column) for column in zip(*rows, strict=True)), conflicts)


def add_up(gradients_LN: Tensor, weighed: Weighed) -> Tensor:
    """Return the projected sum of gradients, one row per loss, which stay unchanged."""
    if not weighed.weights_L:
        return gradients_LN.sum(dim=0)
    weights_L = torch.tensor(weighed.weights_L, dtype=gradients_LN.dtype, device=gradients_LN.device)
    return weights_L @ gradients_LN


def _weights(products_LL: Sequence[Sequence[float]], row: int, order: random.Random) -> list[float]:
    """Return by how much each original gradient counts in the projected one of `row`."""
    weights = [float(index == row) for index in range(len(products_LL))]
    others = [index for index in range(len(products_LL)) if index != row]
    order.shuffle(others)
    for other in others:
        against = sum(weight * product for weight, product in zip(weights, products_LL[other], strict=True))
        if against < 0 < products_LL[other][other]:
            weights[other] -= against / products_LL[other][other]
    return weights
