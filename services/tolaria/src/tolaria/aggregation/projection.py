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
class Projected:
    """What became of the gradients of some losses.

    Attributes
    ----------
    gradient_N : Tensor
        The sum of the projected gradients.
    conflicts : int
        Pairs of losses whose gradients point against each other.
    pairs : int
        All pairs.
    """

    gradient_N: Tensor
    conflicts: int
    pairs: int


def project(gradients_LN: Tensor, order: random.Random) -> Projected:
    """Add up gradients, each without what goes against another.

    Parameters
    ----------
    gradients_LN : Tensor
        One row per loss; unchanged. A number that is not finite makes the sum not finite.
    order : random.Random
        Rules in which order each gradient meets the others.
    """
    products = (gradients_LN @ gradients_LN.T).tolist()
    count = len(products)
    conflicts = sum(products[i][j] < 0 for i in range(count) for j in range(i))
    if not conflicts:
        return Projected(gradients_LN.sum(dim=0), 0, count * (count - 1) // 2)
    rows = (_weights(products, row, order) for row in range(count))
    totals = [sum(column) for column in zip(*rows, strict=True)]
    weights_L = torch.tensor(totals, dtype=gradients_LN.dtype, device=gradients_LN.device)
    return Projected(weights_L @ gradients_LN, conflicts, count * (count - 1) // 2)


def _weights(products: Sequence[Sequence[float]], row: int, order: random.Random) -> list[float]:
    """Return by how much each original gradient counts in the projected one of `row`."""
    weights = [float(index == row) for index in range(len(products))]
    others = [index for index in range(len(products)) if index != row]
    order.shuffle(others)
    for other in others:
        against = sum(weight * product for weight, product in zip(weights, products[other], strict=True))
        if against < 0 < products[other][other]:
            weights[other] -= against / products[other][other]
    return weights
