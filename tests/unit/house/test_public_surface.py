"""A package offers what its `__init__` names, and nobody reaches past that into what is private."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sources import REPOSITORY, name_of, nodes_of, our_modules, package_folders

pytestmark = pytest.mark.req("TOL-7")
PACKAGES = {folder.name for folder in package_folders()}


def module_of(path: Path) -> str:
    """Return the import name of a source file."""
    parts = path.relative_to(REPOSITORY).parts
    inside = parts[parts.index("src") + 1 :]
    return ".".join([*inside[:-1], path.stem] if path.stem != "__init__" else inside[:-1])


def surfaces() -> list[Path]:
    """Return every `__init__.py` that binds a name."""
    return [path for path in our_modules() if path.name == "__init__.py" and bound(path.read_text())]


def services() -> list[Path]:
    return [folder for folder in package_folders() if folder.parent.name == "services"]


def bound(source: str) -> set[str]:
    """Return the public names that the top of a module binds."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__":
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def trespasses(path: Path) -> Iterator[str]:
    """Yield what a file takes from inside another package of ours."""
    home = module_of(path).partition(".")[0]
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            taken = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            taken = [alias.name for alias in node.names]
        else:
            continue
        yield from (f"{home} takes {name}" for name in taken if is_trespass(home, name))


def is_trespass(home: str, name: str) -> bool:
    package, *inside = name.split(".")
    return package in PACKAGES - {home} and any(part.startswith("_") and part != "__version__" for part in inside)


@pytest.mark.parametrize("path", surfaces(), ids=module_of)
def test_a_package_names_what_it_offers_and_binds_nothing_else(path: Path) -> None:
    module = importlib.import_module(module_of(path))
    offered = [name for name in getattr(module, "__all__", ()) if not name.startswith("__")]
    assert len(offered) == len(set(offered))
    assert all(hasattr(module, name) for name in offered)
    assert "__all__" in vars(module) or bound(path.read_text()) == set()
    used = {node.id for node in nodes_of(path) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert bound(path.read_text()) - used <= set(offered)


@pytest.mark.parametrize(
    "folder", [each for each in package_folders() if each.parent.name == "services"], ids=lambda folder: folder.name
)
def test_a_service_offers_nothing_to_import(folder: Path) -> None:
    """Its surface is its gRPC service and `python -m`; that nobody imports it is a contract of the linter."""
    package = folder / "src" / folder.name
    assert bound((package / "__init__.py").read_text()) == set()
    assert (package / "__main__.py").is_file()


def test_no_package_reaches_for_what_is_private_to_another() -> None:
    assert [f"{name_of(path)}: {found}" for path in our_modules() for found in trespasses(path)] == []


def test_a_trespass_is_noticed() -> None:
    assert is_trespass("tolaria", "esper_runtime.host._Wrapped")
    assert is_trespass("tolaria", "esper_core._inner.thing")
    assert not is_trespass("tolaria", "tolaria.state.ring._Slot")
    assert not is_trespass("tolaria", "esper_core.__version__")
    assert bound("from a import b as c\nimport d.e\n_x = 1\ny: int = 2\ndef f(): ...") == {"c", "d", "y", "f"}
