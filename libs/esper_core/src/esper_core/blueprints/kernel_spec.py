"""What identifies a kernel before any weight exists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper_core.blueprints.bounds import ParameterValue
from esper_core.blueprints.catalogue import get_blueprint
from esper_core.blueprints.contract import SiteContract


def sha256_hex(data: bytes) -> str:
    """Return the digest by which artefacts are addressed, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A blueprint with all its parameters, made concrete for one site contract.

    Parameters
    ----------
    blueprint_id : str
        A blueprint of the catalogue.
    parameters : Mapping[str, int | float | str]
        Values; absent ones take the declared default, so that the spec is always complete.
    contract : SiteContract
        The shape it is made for.

    Raises
    ------
    UnknownBlueprintError, BlueprintParameterError, SiteContractError
        If the three do not fit together.
    """

    blueprint_id: str
    contract: SiteContract
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blueprint = get_blueprint(self.blueprint_id)
        blueprint.check_contract(self.contract)
        object.__setattr__(self, "parameters", blueprint.complete_for(self.contract, self.parameters))

    def __hash__(self) -> int:
        return hash(self.canonical())

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain data."""
        return {
            "blueprint_id": self.blueprint_id,
            "contract": self.contract.to_dict(),
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KernelSpec:
        """Read a spec written by `to_dict`."""
        return cls(
            blueprint_id=data["blueprint_id"],
            contract=SiteContract.from_dict(data["contract"]),
            parameters=data["parameters"],
        )

    def canonical(self) -> bytes:
        """Return the one serialisation that the digest is taken of: JSON, sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical serialisation, in lower-case hex."""
        return sha256_hex(self.canonical())
