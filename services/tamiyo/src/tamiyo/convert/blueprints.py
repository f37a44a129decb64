"""BlueprintDescriptor to BlueprintCard."""

from __future__ import annotations

from esper_core import leyline
from esper_core.blueprints.messages import blueprint_from_descriptor
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
    return BlueprintCard(blueprint_from_descriptor(message), _refusal(message), sheet)


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
