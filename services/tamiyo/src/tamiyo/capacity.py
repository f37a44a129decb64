"""How many parameters a blueprint adds at a site, told without building it.

The counts are those of esper_runtime's operators, which live beside torch; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from esper_core.blueprints import Blueprint, ParameterValue, SiteContract

Values = Mapping[str, ParameterValue]


def _hidden(values: Values, channels: int) -> int:
    return max(1, round(float(values["expansion"]) * channels))


def _two_layers(values: Values, channels: int) -> int:
    hidden = _hidden(values, channels)
    return 2 * hidden * channels + hidden + channels


def _gated(values: Values, channels: int) -> int:
    hidden = _hidden(values, channels)
    return 3 * hidden * channels + 2 * hidden + channels


def _widening(values: Values, contract: SiteContract) -> int:
    hidden = _hidden(values, contract.channels)
    return hidden * (contract.inputs + 1) + (hidden + 1) * contract.channels


def _convolution(values: Values, channels: int, dimensions: int) -> int:
    hidden, taps = _hidden(values, channels), int(values["kernel_size"])
    size: int = taps**dimensions
    return 2 * hidden * channels * size + hidden + channels


def _depthwise(values: Values, channels: int, dimensions: int) -> int:
    taps: int = int(values["kernel_size"]) ** dimensions
    return channels * (taps + channels + 2)


def _dilated(values: Values, channels: int, dimensions: int) -> int:
    hidden, taps = _hidden(values, channels), int(values["kernel_size"])
    size: int = taps**dimensions
    return hidden * channels * (size + 1) + hidden + channels


def _experts(values: Values, channels: int) -> int:
    experts = int(values["experts"])
    hidden = experts * max(1, round(float(values["expansion"]) * channels / experts))
    return 2 * hidden * channels + hidden + channels + experts * (channels + 1)


_COUNTS: Final[dict[str, Callable[[Values, int], int]]] = {
    "mlp_residual": _two_layers,
    "norm": lambda values, channels: 2 * channels,
    "low_rank_linear": lambda values, channels: (2 * int(values["rank"]) + 1) * channels,
    "conv1d_residual": lambda values, channels: _convolution(values, channels, 1),
    "conv2d_residual": lambda values, channels: _convolution(values, channels, 2),
    "depthwise_conv1d": lambda values, channels: _depthwise(values, channels, 1),
    "depthwise_conv2d": lambda values, channels: _depthwise(values, channels, 2),
    "dilated_conv1d": lambda values, channels: _dilated(values, channels, 1),
    "dilated_conv2d": lambda values, channels: _dilated(values, channels, 2),
    "squeeze_excitation": _two_layers,
    "gated_mlp": _gated,
    "mixture_of_experts": _experts,
    "attention": lambda values, channels: 4 * channels**2 + 4 * channels,
}


def parameters_added(blueprint: Blueprint, values: Values, contract: SiteContract) -> int | None:
    """Return the trainable parameters of a seed, or None for an operator that is never offered to a policy.

    Parameters
    ----------
    blueprint : Blueprint
        The blueprint.
    values : Mapping[str, ParameterValue]
        Values of all its parameters, as `blueprint.complete` returns them.
    contract : SiteContract
        Shape at the site.
    """
    if blueprint.operator == "widen":
        return _widening(values, contract)
    count = _COUNTS.get(blueprint.operator)
    return None if count is None else count(values, contract.channels)
