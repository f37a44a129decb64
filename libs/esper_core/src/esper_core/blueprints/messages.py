"""Between the blueprint vocabulary and its Leyline messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from esper_core import leyline
from esper_core.blueprints.bounds import (
    BlueprintParameterError,
    ChoiceBound,
    IntegerBound,
    ParameterBound,
    ParameterValue,
    RealBound,
)
from esper_core.blueprints.catalogue import Blueprint
from esper_core.blueprints.contract import SITE_KINDS, SiteContract, SiteContractError, SiteKind
from esper_core.errors import ContractError


def kind_to_message(kind: SiteKind) -> leyline.SiteKind.ValueType:
    """Return Leyline's value of a site kind."""
    return leyline.SiteKind.Value(f"SITE_KIND_{kind.upper()}")


def kind_from_message(value: int) -> SiteKind:
    """Return the site kind of a Leyline value; unspecified and unknown values are refused."""
    for kind in SITE_KINDS:
        if kind_to_message(kind) == value:
            return kind
    raise SiteContractError(f"Site kind {value} is not specified or unknown.", field="kind", allowed=SITE_KINDS)


def contract_to_message(contract: SiteContract) -> leyline.SiteContract:
    """Convert a contract; open extents become 0."""
    return leyline.SiteContract(
        kind=kind_to_message(contract.kind),
        channels=contract.channels,
        length=contract.length or 0,
        height=contract.height or 0,
        width=contract.width or 0,
        inputs=contract.inputs,
    )


def contract_from_message(message: leyline.SiteContract) -> SiteContract:
    """Convert a contract; extents of 0 are open."""
    return SiteContract(
        kind=kind_from_message(message.kind),
        channels=message.channels,
        length=message.length or None,
        height=message.height or None,
        width=message.width or None,
        inputs=message.inputs,
    )


def parameters_to_messages(parameters: Mapping[str, ParameterValue]) -> list[leyline.BlueprintParameter]:
    """Convert parameter values, sorted by name."""
    return [_parameter(name, parameters[name]) for name in sorted(parameters)]


def _parameter(name: str, value: ParameterValue) -> leyline.BlueprintParameter:
    if isinstance(value, int):
        return leyline.BlueprintParameter(name=name, integer=value)
    if isinstance(value, float):
        return leyline.BlueprintParameter(name=name, real=value)
    return leyline.BlueprintParameter(name=name, text=value)


def parameters_from_messages(messages: Iterable[leyline.BlueprintParameter]) -> dict[str, ParameterValue]:
    """Convert parameter values; a name without value, or given twice, is refused."""
    values: dict[str, ParameterValue] = {}
    for message in messages:
        which = message.WhichOneof("value")
        if which is None or which == "flag" or message.name in values:
            raise BlueprintParameterError(
                f"Parameter {message.name!r} must be given once, as a number or a word.",
                field=f"parameters.{message.name}",
                allowed="one integer, real or text value",
            )
        values[message.name] = getattr(message, which)
    return values


def descriptor(blueprint: Blueprint) -> leyline.BlueprintDescriptor:
    """Return the catalogue message of a blueprint, as Urza is seeded with it."""
    return leyline.BlueprintDescriptor(
        version=1,
        blueprint_id=blueprint.blueprint_id,
        name=blueprint.name,
        tier=leyline.BlueprintTier.Value(f"BLUEPRINT_TIER_{blueprint.tier}"),
        operator=leyline.BlueprintOperator.Value(f"BLUEPRINT_OPERATOR_{blueprint.operator.upper()}"),
        parameters=[_bound(bound) for bound in blueprint.parameters],
        site_kinds=[kind_to_message(kind) for kind in blueprint.site_kinds],
        risk=blueprint.risk,
        quarantine_only=blueprint.quarantine_only,
        approval_required=blueprint.approval_required,
        approved=not blueprint.approval_required,
        description=blueprint.description,
        blend_modes=[leyline.BLEND_MODE_CONVEX, leyline.BLEND_MODE_RESIDUAL, leyline.BLEND_MODE_CHANNEL],
        revision=1,
    )


def _bound(bound: ParameterBound) -> leyline.ParameterBound:
    message = leyline.ParameterBound(name=bound.name, description=bound.description)
    if isinstance(bound, ChoiceBound):
        message.choice.allowed.extend(bound.allowed)
        message.choice.default_value = bound.default
        return message
    target = message.integer if isinstance(bound, IntegerBound) else message.real
    for field in ("minimum", "maximum"):
        setattr(target, field, getattr(bound, field))
    target.default_value = bound.default  # type: ignore[assignment]
    if isinstance(bound, IntegerBound):
        message.integer.step = bound.step
        message.integer.divides_channels = bound.divides_channels
        message.integer.at_most = bound.at_most
    return message


def blueprint_from_descriptor(message: leyline.BlueprintDescriptor) -> Blueprint:
    """Return the blueprint that a catalogue message tells of.

    Raises
    ------
    ValidationError
        If a bound or a kind of site cannot be read.
    """
    return Blueprint(
        blueprint_id=message.blueprint_id,
        name=message.name,
        tier=leyline.BlueprintTier.Name(message.tier).removeprefix("BLUEPRINT_TIER_"),
        operator=leyline.BlueprintOperator.Name(message.operator).removeprefix("BLUEPRINT_OPERATOR_").lower(),
        parameters=tuple(_bound_from_message(bound) for bound in message.parameters),
        site_kinds=tuple(kind_from_message(kind) for kind in message.site_kinds),
        risk=message.risk,
        quarantine_only=message.quarantine_only,
        approval_required=message.approval_required,
        description=message.description,
    )


def _bound_from_message(message: leyline.ParameterBound) -> ParameterBound:
    which = message.WhichOneof("bound")
    name, text = message.name, message.description
    if which == "integer":
        return _integer_bound(name, text, message.integer)
    if which == "real":
        real = message.real
        return RealBound(name, text, real.minimum, real.maximum, real.default_value)
    if which == "choice":
        return ChoiceBound(name, text, tuple(message.choice.allowed), message.choice.default_value)
    raise ContractError(f"Parameter {name!r} has no bound.", field="parameters.bound", allowed="integer, real, choice")


def _integer_bound(name: str, text: str, whole: leyline.IntegerBound) -> IntegerBound:
    return IntegerBound(
        name,
        text,
        whole.minimum,
        whole.maximum,
        whole.default_value,
        step=whole.step or 1,
        divides_channels=whole.divides_channels,
        at_most=whole.at_most,
    )
