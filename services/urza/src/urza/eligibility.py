"""Which blueprints may be served to a run."""

from __future__ import annotations

from esper_core import leyline


def refusal(blueprint: leyline.BlueprintDescriptor) -> str:
    """Return why a blueprint may not be served, as a sentence; empty when it may.

    Parameters
    ----------
    blueprint : leyline.BlueprintDescriptor
        The blueprint as the catalogue holds it.
    """
    if blueprint.quarantined:
        return f"{blueprint.blueprint_id} is quarantined: {blueprint.quarantine_reason}"
    if blueprint.quarantine_only or blueprint.tier == leyline.BLUEPRINT_TIER_HIGH_RISK:
        return f"{blueprint.blueprint_id} is a fixture for assessments and drills and never served to a run."
    if blueprint.approval_required and not blueprint.approved:
        return f"{blueprint.blueprint_id} needs approval; register a revision with approved set."
    if blueprint.HasField("bsds") and blueprint.bsds.handling_class == leyline.HANDLING_CLASS_QUARANTINE:
        return f"The safety data sheet of {blueprint.blueprint_id} demands quarantine."
    return ""


def is_eligible(blueprint: leyline.BlueprintDescriptor) -> bool:
    """Return whether a blueprint may be served to a run."""
    return not refusal(blueprint)
