"""The blueprints as Urza tells them, held as a snapshot so that no command waits for a lookup."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from esper_core.blueprints import Blueprint


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """A blueprint with what was decided about it since it was written.

    Attributes
    ----------
    blueprint : Blueprint
        Bounds, site kinds, tier.
    approved : bool
        Whether a required approval was given.
    quarantine_reason : str
        Why it is quarantined; empty when it is not.
    handling_quarantine : bool
        Whether its safety data sheet demands quarantine.
    handling_restricted : bool
        Whether its sheet restricts it to runs that allow it.
    risk_score : float
        Risk in [0, 1]: measured where there is a sheet, the prior otherwise.
    blend_modes : tuple of int
        Values of `leyline.BlendMode` that it supports; empty means any.
    """

    blueprint: Blueprint
    approved: bool
    quarantine_reason: str
    handling_quarantine: bool
    risk_score: float
    blend_modes: tuple[int, ...]
    handling_restricted: bool = False

    def ineligible(self, allow_restricted: bool = False) -> str:
        """Return why a run may not use it, as a sentence; empty when it may.

        Parameters
        ----------
        allow_restricted : bool
            Whether the run lets restricted kernels grow.
        """
        name = self.blueprint.blueprint_id
        if self.quarantine_reason:
            return f"{name} is quarantined: {self.quarantine_reason}"
        if self.handling_quarantine:
            return f"The safety data sheet of {name} demands quarantine."
        if self.blueprint.quarantine_only or self.blueprint.tier == "HIGH_RISK":
            return f"{name} is a fixture for assessments and drills and never used in a run."
        if self.blueprint.approval_required and not self.approved:
            return f"{name} needs approval before it may be used."
        if self.handling_restricted and not allow_restricted:
            return f"The safety data sheet of {name} restricts it to runs with growth.allow_restricted."
        return ""


class Catalogue:
    """The snapshot. It is empty and says so until Urza was heard for the first time."""

    def __init__(self) -> None:
        self._items: dict[str, CatalogueItem] = {}
        self._heard = False

    @property
    def heard(self) -> bool:
        """Whether a snapshot has ever arrived."""
        return self._heard

    def put(self, item: CatalogueItem) -> None:
        """Take up one blueprint or its new revision."""
        self._items[item.blueprint.blueprint_id] = item
        self._heard = True

    def replace_all(self, items: Iterable[CatalogueItem]) -> None:
        """Take up a whole snapshot."""
        self._items = {item.blueprint.blueprint_id: item for item in items}
        self._heard = True

    def get(self, blueprint_id: str) -> CatalogueItem | None:
        """Return a blueprint, or None when Urza has none of that id."""
        return self._items.get(blueprint_id)

    def ids(self) -> tuple[str, ...]:
        """Return all known ids, sorted."""
        return tuple(sorted(self._items))
