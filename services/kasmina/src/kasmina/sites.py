"""A place where a host may grow."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core.blueprints import Blueprint, SiteContract, check_admitted


@dataclass(frozen=True, slots=True)
class Site:
    """A site as its runtime declares it.

    Attributes
    ----------
    name : str
        Unique in its host.
    module_path : str
        Dotted path of the submodule whose output is the site.
    contract : SiteContract
        Shape at the site.
    depth : int
        Position from the input, 0 first.
    blueprint_ids : tuple of str
        The only blueprints that may grow there; empty where every one that fits may.
    """

    name: str
    module_path: str
    contract: SiteContract
    depth: int
    blueprint_ids: tuple[str, ...] = ()

    def admit(self, blueprint: Blueprint) -> None:
        """Refuse a blueprint that does not fit there or is not among those that may grow there.

        Raises
        ------
        SiteContractError
            Saying which.
        """
        check_admitted(blueprint.blueprint_id, self.blueprint_ids)
        blueprint.check_contract(self.contract)

    def admits(self, blueprint: Blueprint) -> bool:
        """Say whether `admit` would let a blueprint pass."""
        return blueprint.fits(self.contract) and blueprint.blueprint_id in (
            self.blueprint_ids or [blueprint.blueprint_id]
        )
