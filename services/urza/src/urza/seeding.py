"""Fills the catalogue with the blueprints that ship with Esper."""

from __future__ import annotations

from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from urza.library import Library


async def seed(library: Library) -> int:
    """Register every blueprint of the vocabulary; one that is there already stays as it is.

    Returns
    -------
    int
        Blueprints of the vocabulary.
    """
    blueprints = load_catalogue()
    for blueprint in blueprints:
        await library.register(descriptor(blueprint))
    return len(blueprints)
