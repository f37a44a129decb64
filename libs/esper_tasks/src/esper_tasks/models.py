"""The built-in hosts: small networks whose growable places are plain named submodules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from esper_core.errors import ValidationError
from esper_runtime.contracts import Site, SiteContract
from esper_tasks.parameters import ParameterValue

ModelT = TypeVar("ModelT", bound=nn.Module)


def seeded(seed: int, build: Callable[[], ModelT]) -> ModelT:
    """Build a module from a seed and leave torch's own random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class Rescale(nn.Module):
    """Bring inputs to zero mean and unit size with two constants: (x - shift) / scale."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift = shift
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Rescale a tensor of any shape."""
        return (inputs - self.shift) / self.scale


class MlpHost(nn.Module):
    """Rescaled inputs, `depth` hidden layers with ReLU, a linear readout.

    Parameters
    ----------
    inputs, width, depth, classes : int
        Sizes.
    stem : Rescale
        What brings the raw inputs to unit size.
    """

    def __init__(self, inputs: int, width: int, depth: int, classes: int, stem: Rescale) -> None:
        super().__init__()
        self.stem = stem
        self.widths = (inputs, *[width] * depth)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU()) for before, after in itertools.pairwise(self.widths)
        )
        self.readout = nn.Linear(width, classes)

    def forward(self, inputs_BF: Tensor) -> Tensor:
        """Return logits (B, C) for inputs (B, F)."""
        features = self.stem(inputs_BF)
        for layer in self.hidden:
            features = layer(features)
        logits: Tensor = self.readout(features)
        return logits


def mlp_shape(sizes: Mapping[str, Mapping[str, int]], chosen: Mapping[str, ParameterValue]) -> tuple[int, int]:
    """Return width and depth: those given, else those of the size."""
    size = sizes[str(chosen["size"])]
    return int(chosen.get("width", size["width"])), int(chosen.get("depth", size["depth"]))


def mlp_sites(model: nn.Module) -> Sequence[Site]:
    """Return the sites of an `MlpHost`: its rescaled inputs, the output of each hidden layer, and the readout.

    Layers and readout offer what they receive, so that they can be widened. Nothing else may grow at the readout: what
    only reshapes its logits cannot tell it more than it sees.

    Raises
    ------
    ValidationError
        If the model is no `MlpHost`.
    """
    if not isinstance(model, MlpHost):
        raise ValidationError(
            f"The sites of this task are those of an MlpHost, not of a {type(model).__name__}; "
            "pass what build_model returned.",
            field="model",
            allowed="MlpHost",
        )
    stem = Site("stem", "stem", "features", SiteContract("features", model.widths[0]), depth=0)
    hidden = (
        Site(f"hidden{n}", f"hidden.{n - 1}", "features", SiteContract("features", after, inputs=before), depth=n)
        for n, (before, after) in enumerate(itertools.pairwise(model.widths), start=1)
    )
    classes = SiteContract("features", model.readout.out_features, inputs=model.widths[-1])
    readout = Site("readout", "readout", "features", classes, len(model.widths), blueprint_ids=("widen.v1",))
    return (stem, *hidden, readout)
