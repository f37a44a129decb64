"""Enums that services share are defined by Leyline alone."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from support.sources import GENERATED, name_of, our_modules

ENUM_BASES = {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "ReprEnum"}


def leyline_enums() -> dict[str, set[str]]:
    """Return the short value names of every enum of every proto file, by the enum's name."""
    enums: dict[str, set[str]] = {}
    for path in GENERATED.rglob("*_pb2.py"):
        module = import_module("esper_core.pb." + ".".join(path.relative_to(GENERATED).with_suffix("").parts))
        for name, descriptor in module.DESCRIPTOR.enum_types_by_name.items():
            values = [value.name for value in descriptor.values]
            prefix = values[0].removesuffix("UNSPECIFIED")
            enums[name] = {value.removeprefix(prefix) for value in values[1:]}
    return enums


def repeated_enum(name: str, members: set[str], enums: dict[str, set[str]]) -> str | None:
    """Return the Leyline enum that a Python enum repeats by its name or by most of its members."""
    for enum, values in enums.items():
        shared = members & values
        if name.casefold() == enum.casefold() or (len(shared) >= 2 and 2 * len(shared) >= len(members)):
            return enum
    return None


def python_enums(source: str) -> list[tuple[str, set[str]]]:
    """Return name and member names of every enum class in the source."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [(each.name, _members(each)) for each in classes if any(_is_enum(base) for base in each.bases)]


def _is_enum(base: ast.expr) -> bool:
    return ast.unparse(base).rpartition(".")[2] in ENUM_BASES


def _members(definition: ast.ClassDef) -> set[str]:
    assignments = [node for node in definition.body if isinstance(node, ast.Assign)]
    return {target.id.upper() for node in assignments for target in node.targets if isinstance(target, ast.Name)}


def offenders(path: Path, enums: dict[str, set[str]]) -> list[str]:
    found = ((name, repeated_enum(name, members, enums)) for name, members in python_enums(path.read_text()))
    return [f"{name_of(path)}: {name} repeats Leyline's {enum}" for name, enum in found if enum]


@pytest.mark.req("LEY-8")
def test_no_python_enum_repeats_a_leyline_enum() -> None:
    enums = leyline_enums()
    assert "SeedStage" in enums
    assert [line for path in our_modules() for line in offenders(path, enums)] == []


@pytest.mark.req("LEY-8")
def test_enums_are_defined_by_the_leyline_package_only() -> None:
    owners = {path.parent.parent.name for path in GENERATED.rglob("*_pb2.py") if _defines_enums(path)}
    assert owners == {"leyline"}


@pytest.mark.parametrize(
    "source",
    [
        "class SeedStage(IntEnum):\n    A = 1",
        "class Stage(enum.Enum):\n    DORMANT = 1\n    training = 3\n    EXTRA = 9",
        "class Breaker(StrEnum):\n    CLOSED = 'closed'\n    OPEN = 'open'\n    HALF_OPEN = 'half'",
    ],
)
def test_the_guard_catches_a_repetition(source: str) -> None:
    [(name, members)] = python_enums(source)
    assert repeated_enum(name, members, leyline_enums())


def test_the_guard_lets_local_concepts_pass() -> None:
    [(name, members)] = python_enums("class Arm(Enum):\n    SMALL = 1\n    BIG = 2\n    GROWN = 3")
    assert repeated_enum(name, members, leyline_enums()) is None


def _defines_enums(path: Path) -> bool:
    module = import_module("esper_core.pb." + ".".join(path.relative_to(GENERATED).with_suffix("").parts))
    return bool(module.DESCRIPTOR.enum_types_by_name)
