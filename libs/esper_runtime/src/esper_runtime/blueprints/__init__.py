"""The operators behind the blueprint vocabulary; the vocabulary itself is data in `esper_core.blueprints`."""

from esper_core.blueprints import Blueprint, get_blueprint, load_catalogue
from esper_runtime.blueprints.operator import Operator, OperatorKind
from esper_runtime.blueprints.registry import OPERATORS, assemble, build, flops, operator_kind, parameter_count

__all__ = [
    "OPERATORS",
    "Blueprint",
    "Operator",
    "OperatorKind",
    "assemble",
    "build",
    "flops",
    "get_blueprint",
    "load_catalogue",
    "operator_kind",
    "parameter_count",
]
