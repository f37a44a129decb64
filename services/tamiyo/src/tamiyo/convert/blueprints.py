"""BlueprintDescriptor to BlueprintCard."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blueprints import Blueprint, ChoiceBound, IntegerBound, ParameterBound, RealBound
from esper_core.blueprints.messages import kind_from_message
from esper_core.errors import ContractError
from tamiyo.catalogue import BlueprintCard, Sheet


def card_of(message: leyline.BlueprintDescriptor) -> BlueprintCard:
    """Convert a blueprint as Urza tells it.

    Raises
    ------
    ValidationError
        If a bound or a kind of site cannot be read.
    """
    sheet = None
    if message.HasField("bsds"):
        sheet = Sheet(message.bsds.risk_score, message.bsds.hazard_band, message.bsds.handling_class)
    return BlueprintCard(_blueprint(message), _refusal(message), sheet)


def _refusal(message: leyline.BlueprintDescriptor) -> str:
    """Return why no policy may propose it, as a sentence; empty when it may be proposed."""
    name = message.blueprint_id
    if message.quarantined:
        return f"{name} is quarantined: {message.quarantine_reason or 'no reason was given'}."
    if message.quarantine_only or message.tier == leyline.BLUEPRINT_TIER_HIGH_RISK:
        return f"{name} is a fixture for assessments and drills."
    if message.approval_required and not message.approved:
        return f"{name} needs approval before it may be used."
    return ""


def _blueprint(message: leyline.BlueprintDescriptor) -> Blueprint:
    return Blueprint(
        blueprint_id=message.blueprint_id,
        name=message.name,
        tier=leyline.BlueprintTier.Name(message.tier).removeprefix("BLUEPRINT_TIER_"),
        operator=leyline.BlueprintOperator.Name(message.operator).removeprefix("BLUEPRINT_OPERATOR_").lower(),
        parameters=tuple(_bound(bound) for bound in message.parameters),
        site_kinds=tuple(kind_from_message(kind) for kind in message.site_kinds),
        risk=message.risk,
        quarantine_only=message.quarantine_only,
        approval_required=message.approval_required,
        description=message.description,
    )


def _bound(message: leyline.ParameterBound) -> ParameterBound:
    which, name, text = message.WhichOneof("bound"), message.name, message.description
    if which == "integer":
        whole = message.integer
        return IntegerBound(name, text, whole.minimum, whole.maximum, whole.default_value)
    if which == "real":
        real = message.real
        return RealBound(name, text, real.minimum, real.maximum, real.default_value)
    if which == "choice":
        return ChoiceBound(name, text, tuple(message.choice.allowed), message.choice.default_value)
    raise ContractError(f"Parameter {name!r} has no bound.", field="parameters.bound", allowed="integer, real, choice")
