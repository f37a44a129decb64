"""Fixed splits: the same examples are held out in every run, whatever its seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from esper_tasks.sampling import Split


def split_by_group(groups: np.ndarray, fractions: Sequence[float], seed: int) -> tuple[Tensor, ...]:
    """Deal whole groups of examples to splits.

    Parameters
    ----------
    groups : np.ndarray
        Shape (N,), integers from 0; examples of one group stay together.
    fractions : Sequence[float]
        Share of the groups for each split; they add up to 1.
    seed : int
        Seed of the deal.

    Returns
    -------
    tuple[Tensor, ...]
        Indices of each split's examples, ascending.
    """
    if not math.isclose(sum(fractions), 1.0):
        raise ValueError(f"The fractions of a split add up to 1, not to {sum(fractions)}.")
    count = int(groups.max()) + 1
    rank = np.empty(count, dtype=np.int64)
    rank[np.random.Generator(np.random.PCG64(seed)).permutation(count)] = np.arange(count)
    bounds = np.round(np.cumsum((0.0, *fractions)) * count).astype(np.int64)
    places = rank[groups]
    return tuple(
        torch.from_numpy(np.flatnonzero((low <= places) & (places < high))) for low, high in itertools.pairwise(bounds)
    )


def four_splits(inputs: Tensor, targets: Tensor, parts: Sequence[Tensor]) -> tuple[Split, Split, Split, Split]:
    """Cut a data set into train, validation, probe and test by their indices."""
    train, validation, probe, test = (Split(inputs[part], targets[part]) for part in parts)
    return train, validation, probe, test
