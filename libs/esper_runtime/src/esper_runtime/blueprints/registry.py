"""From a catalogue entry to its operator, its cost and its module."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch

from esper_core.blueprints import KernelSpec, SiteContract, UnknownBlueprintError, get_blueprint
from esper_runtime.blueprints import (
    attention,
    convolution,
    depthwise,
    dilated,
    excitation,
    fixtures,
    gated,
    low_rank,
    misbehaving,
    mixture,
    mlp,
    norm,
    widen,
)
from esper_runtime.blueprints.operator import Operator, OperatorKind

_KINDS: Final = (
    mlp.KIND,
    widen.KIND,
    norm.KIND,
    low_rank.KIND,
    convolution.CONV1D,
    convolution.CONV2D,
    depthwise.CONV1D,
    depthwise.CONV2D,
    dilated.CONV1D,
    dilated.CONV2D,
    excitation.KIND,
    gated.KIND,
    attention.KIND,
    mixture.KIND,
    fixtures.NAN_INJECTION,
    fixtures.EXPLODING,
    fixtures.VANISHING,
    fixtures.TOXIC,
    misbehaving.MEMORY_GROWTH,
    misbehaving.OSCILLATION,
    misbehaving.SLOW_FORWARD,
    misbehaving.SHAPE_DRIFT,
)
OPERATORS: Final[Mapping[str, OperatorKind]] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every operator that the runtime can build, by name."""


def operator_kind(blueprint_id: str) -> OperatorKind:
    """Return the operator of a blueprint.

    Raises
    ------
    UnknownBlueprintError
        If the blueprint is unknown, or its operator comes with a later runtime.
    """
    name = get_blueprint(blueprint_id).operator
    if name not in OPERATORS:
        raise UnknownBlueprintError(f"This runtime has no operator {name!r}; it has {', '.join(OPERATORS)}.")
    return OPERATORS[name]


def parameter_count(blueprint_id: str, parameters: Mapping[str, object], contract: SiteContract) -> int:
    """Return how many trainable parameters a seed would have, without building it."""
    spec = _spec(blueprint_id, parameters, contract)
    return operator_kind(blueprint_id).parameter_count(spec.parameters, contract)


def flops(blueprint_id: str, parameters: Mapping[str, object], contract: SiteContract) -> int:
    """Return the forward FLOPs per example that a seed would cost, without building it."""
    spec = _spec(blueprint_id, parameters, contract)
    return operator_kind(blueprint_id).flops(spec.parameters, contract)


def assemble(spec: KernelSpec) -> Operator:
    """Make the module of a spec on the CPU with uninitialised tensors, touching no random state."""
    return outline(spec).to_empty(device="cpu")


def outline(spec: KernelSpec) -> Operator:
    """Make the module of a spec without memory for its tensors, to know their names, shapes and types."""
    with torch.device("meta"):
        return operator_kind(spec.blueprint_id).assemble(spec.parameters, spec.contract)


def build(
    blueprint_id: str, parameters: Mapping[str, object], contract: SiteContract, generator: torch.Generator
) -> Operator:
    """Build an initialised seed, drawing from the given generator only.

    Raises
    ------
    UnknownBlueprintError, BlueprintParameterError, SiteContractError
        If blueprint, parameters and contract do not fit together; the error names the field and what is allowed.
    """
    module = assemble(_spec(blueprint_id, parameters, contract))
    module.initialise(generator)
    return module


def _spec(blueprint_id: str, parameters: Mapping[str, object], contract: SiteContract) -> KernelSpec:
    completed = get_blueprint(blueprint_id).complete_for(contract, parameters)
    return KernelSpec(blueprint_id=blueprint_id, contract=contract, parameters=completed)
