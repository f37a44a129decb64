"""MNIST-1D: ten hand-drawn signals, shifted, sheared and made noisy, 40 samples long.

The package draws the data from its templates with a seed; that construction is the data set. Its
download is never used.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from esper_core.errors import ValidationError
from esper_runtime.contracts import Site, SiteContract
from esper_tasks.extras import require_extra
from esper_tasks.models import seeded
from esper_tasks.parameters import ChoiceParameter, IntParameter, Parameter, ParameterValue, resolve_parameters
from esper_tasks.protocol import ClassificationTask, GrowthDefaults, GrowthStep, TaskData, TaskSpec
from esper_tasks.sampling import Split
from esper_tasks.splitting import four_splits, split_by_group

LENGTH = 40
CLASSES = 10
SPLIT_SEED = 22
VERSION = "0.0.2.post1"
SIZES = {"small": {"channels": 8}, "big": {"channels": 25}}


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    # The package seeds numpy's and Python's global generators; a task must not disturb a run's own.
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@functools.cache
def mnist1d_splits() -> tuple[Split, Split, Split, Split]:
    """Return train, validation, probe and test: the 4000 training signals 80/10/10, and the package's 1000 for test."""
    require_extra("mnist1d", "mnist1d", VERSION)
    from mnist1d.data import get_dataset_args, make_dataset

    with _global_random_state_kept():
        made = make_dataset(get_dataset_args())
    signals = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    inputs = torch.from_numpy(signals).unsqueeze(1)
    targets = torch.from_numpy(np.concatenate([made["y"], made["y_test"]]).astype(np.int64))
    count = len(made["y"])
    parts = split_by_group(np.arange(count), (0.8, 0.1, 0.1), SPLIT_SEED)
    return four_splits(inputs, targets, (*parts, torch.arange(count, len(targets))))


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(channels_in, channels_out, 5, stride=stride, padding=2), nn.ReLU())


class ConvHost(nn.Module):
    """Three strided convolutions, an average over time and a linear readout.

    Parameters
    ----------
    channels : int
        Channels of every convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = _block(1, channels, 1)
        self.conv2 = _block(channels, channels, 2)
        self.conv3 = _block(channels, channels, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool1d(2), nn.Flatten())
        self.readout = nn.Linear(2 * channels, CLASSES)

    def forward(self, signals_BCL: Tensor) -> Tensor:
        """Return logits (B, 10) for signals (B, 1, 40)."""
        logits: Tensor = self.readout(self.pool(self.conv3(self.conv2(self.conv1(signals_BCL)))))
        return logits


class Mnist1dTask(ClassificationTask):
    """A narrow 1-d convolutional net on MNIST-1D."""

    name = "mnist1d"
    attribution = (
        "MNIST-1D, S. Greydanus and D. Kobak, Scaling Down Deep Learning with MNIST-1D, ICML 2024, Apache-2.0; made by "
        "make_dataset of the PyPI package mnist1d 0.0.2.post1 with its default arguments."
    )

    def parameters(self) -> Sequence[Parameter]:
        """Return size and channels; channels override what the size says."""
        return (
            ChoiceParameter("size", tuple(SIZES), "small", "a narrow host or the usual static net"),
            IntParameter("channels", 2, 128, None, "channels of every convolution"),
        )

    def default_spec(self) -> TaskSpec:
        """Return a run of about a minute."""
        return TaskSpec(
            batch_size=100,
            optimizer="adam",
            learning_rate=1e-2,
            flops_budget=60_000_000_000,
            short_flops_budget=6_000_000_000,
            sizes=SIZES,
            learning_rate_grid=(3e-3, 1e-2, 2e-2),
            growth=GrowthDefaults(
                steps=(
                    GrowthStep(0.08, "conv2", "conv1d_residual.v1", {"kernel_size": 5}),
                    GrowthStep(0.18, "conv3", "conv1d_residual.v1", {"kernel_size": 5}),
                )
            ),
        )

    def build_model(self, seed: int, **params: ParameterValue) -> nn.Module:
        """Return a `ConvHost` for the given size or number of channels."""
        chosen = resolve_parameters(self.name, self.parameters(), params)
        channels = int(chosen.get("channels", SIZES[str(chosen["size"])]["channels"]))
        return seeded(seed, lambda: ConvHost(channels))

    def sites(self, model: nn.Module) -> Sequence[Site]:
        """Return the three convolutions and the pooled features."""
        if not isinstance(model, ConvHost):
            raise ValidationError(
                f"The sites of mnist1d are those of a ConvHost, not of a {type(model).__name__}.",
                field="model",
                allowed="ConvHost",
            )
        convolutions = (
            Site(f"conv{n}", f"conv{n}", "channels_1d", SiteContract("channels_1d", model.channels, length), depth=n)
            for n, length in enumerate((LENGTH, LENGTH // 2, LENGTH // 4), start=1)
        )
        return (*convolutions, Site("pool", "pool", "features", SiteContract("features", 2 * model.channels), depth=4))

    def data(self, seed: int) -> TaskData:
        """Return the splits; inputs are float (N, 1, 40) of unit size, targets classes 0 to 9."""
        return TaskData(*mnist1d_splits(), seed=seed)
