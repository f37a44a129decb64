"""The catalogue that ships with Esper, read from the data file beside this module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from esper_core.blueprints.bounds import IntegerBound, ParameterBound, ParameterValue, bound_from_dict, complete
from esper_core.blueprints.contract import SiteContract, SiteContractError, SiteKind
from esper_core.errors import NotFoundError

READS_INPUT: Final = frozenset({"widen"})
"""Operators that read what a site's submodule receives, beside its output."""


class UnknownBlueprintError(NotFoundError):
    """The vocabulary holds no blueprint or operator of that name."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The declarative description of a kind of seed.

    Attributes
    ----------
    blueprint_id : str
        Stable id with its version, such as `mlp_residual.v1`.
    name : str
        Name for people.
    tier : str
        `SAFE`, `EXPERIMENTAL` or `HIGH_RISK`: Leyline's BlueprintTier without its prefix.
    operator : str
        What it builds: Leyline's BlueprintOperator without its prefix, in lower case.
    parameters : tuple of ParameterBound
        Its bounded parameters.
    site_kinds : tuple of SiteKind
        Sites that it fits.
    risk : float
        Prior risk in [0, 1], before assessment.
    quarantine_only : bool
        True for fixtures, which are never offered to a run.
    approval_required : bool
        True where a person must approve its use first.
    description : str
        What it is good for.
    """

    blueprint_id: str
    name: str
    tier: str
    operator: str
    parameters: tuple[ParameterBound, ...]
    site_kinds: tuple[SiteKind, ...]
    risk: float
    quarantine_only: bool
    approval_required: bool
    description: str

    @property
    def reads_input(self) -> bool:
        """Whether it needs a site that declares the width of its input."""
        return self.operator in READS_INPUT

    def fits(self, contract: SiteContract) -> bool:
        """Say whether a site has the kind, and the input, that the blueprint needs."""
        return contract.kind in self.site_kinds and (contract.inputs > 0 or not self.reads_input)

    def complete(self, given: Mapping[str, object]) -> dict[str, ParameterValue]:
        """Check parameter values and fill the rest with the declared defaults, sorted by name."""
        return complete(self.parameters, given)

    def complete_for(self, contract: SiteContract, given: Mapping[str, object]) -> dict[str, ParameterValue]:
        """Complete parameter values for a site, and check what only the site or other values can bound.

        Raises
        ------
        BlueprintParameterError
            If a value is out of bounds, by itself or there.
        """
        values = self.complete(given)
        for bound in self.parameters:
            if isinstance(bound, IntegerBound):
                bound.check_beside(values, contract.channels)
        return values

    def check_contract(self, contract: SiteContract) -> None:
        """Refuse a site of a kind that the blueprint does not fit, or without an input that it needs."""
        if contract.kind not in self.site_kinds:
            raise SiteContractError(
                f"Blueprint {self.blueprint_id} does not fit a {contract.kind} site.",
                field="contract.kind",
                allowed=self.site_kinds,
            )
        if self.reads_input and not contract.inputs:
            raise SiteContractError(
                f"Blueprint {self.blueprint_id} reads what the site's submodule receives, which this site does not "
                "offer. Declare the contract's inputs, or take another blueprint.",
                field="contract.inputs",
                allowed="a width of at least 1",
            )


@cache
def load_catalogue() -> tuple[Blueprint, ...]:
    """Return every blueprint that ships with Esper, fixtures included, in the file's order."""
    text = resources.files("esper_core.blueprints").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(_blueprint(row) for row in json.loads(text)["blueprints"])


def get_blueprint(blueprint_id: str) -> Blueprint:
    """Return one blueprint by its id.

    Raises
    ------
    UnknownBlueprintError
        If the catalogue has none of that id.
    """
    for blueprint in load_catalogue():
        if blueprint.blueprint_id == blueprint_id:
            return blueprint
    known = ", ".join(blueprint.blueprint_id for blueprint in load_catalogue() if not blueprint.quarantine_only)
    raise UnknownBlueprintError(
        f"There is no blueprint {blueprint_id!r}; the catalogue has {known}.", details={"blueprint_id": blueprint_id}
    )


def _blueprint(row: Mapping[str, Any]) -> Blueprint:
    parameters = tuple(bound_from_dict(bound) for bound in row["parameters"])
    return Blueprint(**{**row, "parameters": parameters, "site_kinds": tuple(row["site_kinds"])})
