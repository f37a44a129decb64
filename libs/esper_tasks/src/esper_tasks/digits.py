"""Digits: 8x8 pictures of handwritten digits. Small and easy; for smoke tests, never for a claim."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from esper_runtime.contracts import Site
from esper_tasks.extras import require_extra
from esper_tasks.models import MlpHost, Rescale, mlp_shape, mlp_sites, seeded
from esper_tasks.parameters import ChoiceParameter, IntParameter, Parameter, ParameterValue, resolve_parameters
from esper_tasks.protocol import ClassificationTask, GrowthDefaults, GrowthStep, TaskData, TaskSpec
from esper_tasks.sampling import Split
from esper_tasks.splitting import four_splits, split_by_group

PIXELS = 64
CLASSES = 10
SPLIT_SEED = 21
SIZES = {"small": {"width": 8, "depth": 1}, "big": {"width": 64, "depth": 1}}


@functools.cache
def digits_splits() -> tuple[Split, Split, Split, Split]:
    """Return train, validation, probe and test: 55, 15, 15 and 15 % of 1797 pictures."""
    require_extra("digits", "scikit-learn")
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels.astype(np.float32))
    targets = torch.from_numpy(classes.astype(np.int64))
    return four_splits(inputs, targets, split_by_group(np.arange(len(classes)), (0.55, 0.15, 0.15, 0.15), SPLIT_SEED))


class DigitsTask(ClassificationTask):
    """A small MLP on 8x8 digits."""

    name = "digits"
    attribution = (
        "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, "
        "doi:10.24432/C50P49, CC BY 4.0; the test part, as shipped with scikit-learn."
    )

    def parameters(self) -> Sequence[Parameter]:
        """Return size, width and depth; width and depth override what the size says."""
        return (
            ChoiceParameter("size", tuple(SIZES), "small", "a narrow host or a wide static net"),
            IntParameter("width", 4, 256, None, "neurons per hidden layer"),
            IntParameter("depth", 1, 3, None, "hidden layers"),
        )

    def default_spec(self) -> TaskSpec:
        """Return a run of a few seconds."""
        return TaskSpec(
            batch_size=64,
            optimizer="adam",
            learning_rate=1e-2,
            flops_budget=500_000_000,
            short_flops_budget=100_000_000,
            sizes=SIZES,
            learning_rate_grid=(3e-3, 1e-2),
            growth=GrowthDefaults(steps=(GrowthStep(0.1, "hidden1", "mlp_residual.v1"),)),
        )

    def build_model(self, seed: int, **params: ParameterValue) -> nn.Module:
        """Return an `MlpHost` for the given size, width and depth."""
        width, depth = mlp_shape(SIZES, resolve_parameters(self.name, self.parameters(), params))
        return seeded(seed, lambda: MlpHost(PIXELS, width, depth, CLASSES, Rescale(8.0, 8.0)))

    def sites(self, model: nn.Module) -> Sequence[Site]:
        """Return the stem and the hidden layers."""
        return mlp_sites(model)

    def data(self, seed: int) -> TaskData:
        """Return the splits; inputs are float (N, 64) with values 0 to 16, targets classes 0 to 9."""
        return TaskData(*digits_splits(), seed=seed)
