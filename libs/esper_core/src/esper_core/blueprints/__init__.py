"""The blueprint vocabulary as data: what may be grown where, within which bounds. No torch in here."""

from esper_core.blueprints.bounds import (
    BlueprintParameterError,
    ChoiceBound,
    IntegerBound,
    ParameterBound,
    ParameterValue,
    RealBound,
)
from esper_core.blueprints.catalogue import (
    Blueprint,
    UnknownBlueprintError,
    get_blueprint,
    load_catalogue,
)
from esper_core.blueprints.contract import SITE_KINDS, SiteContract, SiteContractError, SiteKind, check_admitted
from esper_core.blueprints.kernel_spec import KernelSpec, sha256_hex

__all__ = [
    "SITE_KINDS",
    "Blueprint",
    "BlueprintParameterError",
    "ChoiceBound",
    "IntegerBound",
    "KernelSpec",
    "ParameterBound",
    "ParameterValue",
    "RealBound",
    "SiteContract",
    "SiteContractError",
    "SiteKind",
    "UnknownBlueprintError",
    "check_admitted",
    "get_blueprint",
    "load_catalogue",
    "sha256_hex",
]
