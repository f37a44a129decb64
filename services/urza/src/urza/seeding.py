"""Fills the catalogue with the blueprints that ship with Esper, and brings those of an older version up to date."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.logs import get_logger
from urza.library import Library

_DECIDED: Final = ("version", "revision", "created_at", "bsds", "quarantined", "quarantine_reason", "approved")
_WORDS: Final = ("name", "description")
_log = get_logger("urza")


async def seed(library: Library) -> list[str]:
    """Register every blueprint of the vocabulary; one that is there already as it ships now stays as it is.

    What was decided here since then outlives a newer version: quarantine and safety data sheet always, an approval
    unless more than words has changed, because what was approved is then no longer what would be built.

    Returns
    -------
    list of str
        Ids of the blueprints that replaced another declaration; watchers hear of each, as of any revision.
    """
    known = {row.blueprint_id: row for row in (await library.list_blueprints())[0]}
    replaced = []
    for blueprint in load_catalogue():
        offered, before = descriptor(blueprint), known.get(blueprint.blueprint_id)
        if before is None:
            await library.register(offered)
            continue
        changed = _changed(before, offered)
        offered.approved = offered.approved or (before.approved and changed <= set(_WORDS))
        stored = await library.register(offered)
        if stored.revision != before.revision:
            replaced.append(stored.blueprint_id)
            lapsed = before.approved and not stored.approved
            _log.warning(
                "a blueprint of an older version was replaced",
                blueprint_id=stored.blueprint_id,
                revision=stored.revision,
                changed=sorted(changed),
                approval_lapsed=lapsed,
            )
    return replaced


def _changed(before: leyline.BlueprintDescriptor, after: leyline.BlueprintDescriptor) -> set[str]:
    """Return the declared fields in which two descriptors differ."""
    names = (field.name for field in leyline.BlueprintDescriptor.DESCRIPTOR.fields if field.name not in _DECIDED)
    return {name for name in names if getattr(before, name) != getattr(after, name)}
