"""Small measures of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from esper_core.blueprints import SiteContract, SiteContractError


def strength(x: Tensor) -> float:
    """Return the root mean square; infinite when a value is not finite."""
    value = float(x.detach().double().square().mean().sqrt())
    return value if math.isfinite(value) else math.inf


def ratio(part: float, whole: float) -> float:
    """Return a ratio of strengths; 0 over 0 is 0, anything else over 0 is infinite."""
    if part == 0:
        return 0.0
    return part / whole if whole > 0 and math.isfinite(part) else math.inf


def kept_shape(output: Tensor, x: Tensor) -> Tensor:
    """Return an output that has its input's shape.

    Raises
    ------
    SiteContractError
        If it has another one.
    """
    if output.shape != x.shape:
        raise SiteContractError(
            f"An input of shape {tuple(x.shape)} was answered with {tuple(output.shape)}.",
            field="contract",
            allowed=str(tuple(x.shape)),
        )
    return output


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether every value is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def inputs(contract: SiteContract, batch: int, seed: int) -> Tensor:
    """Return standard normal inputs of a site's shape, the same at every call."""
    return torch.randn(contract.shape(batch), generator=torch.Generator().manual_seed(seed))
