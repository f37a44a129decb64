"""Who may know whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.sources import REPOSITORY, name_of, our_modules, package_folders

TORCH_FREE = ("oona", "urza", "kasmina", "nissa", "weatherlight", "esper_core", "esper_cli")


def test_the_import_contracts_hold() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", TORCH_FREE)
def test_a_torch_free_package_never_loads_torch(package: str) -> None:
    """Importing every module finds what the static rules cannot see, such as safetensors.torch."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        f"for module in pkgutil.walk_packages(package.__path__, {package + '.'!r}):\n"
        "    if not module.name.endswith('__main__') and '.pb.' not in module.name:\n"
        "        importlib.import_module(module.name)\n"
        "sys.exit('torch was loaded' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", package_folders(), ids=lambda folder: folder.name)
def test_a_package_declares_what_it_imports(folder: Path) -> None:
    # What esper_core is made of (grpc, pydantic, protobuf) is part of what it offers.
    declared = declared_distributions(folder) | declared_distributions(REPOSITORY / "libs" / "esper_core")
    providers = packages_distributions()
    undeclared = sorted(
        f"{name_of(path)} imports {module}"
        for path in our_modules(folder)
        for module in imported_modules(path)
        if module not in sys.stdlib_module_names
        and module != folder.name
        and not declared & {canonicalize_name(each) for each in providers.get(module, [module])}
    )
    assert undeclared == []


def declared_distributions(folder: Path) -> set[str]:
    """Return the names of all dependencies and extras that the package's manifest lists."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    listed = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in listed}


def imported_modules(path: Path) -> set[str]:
    """Return the top-level names of everything the file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    absolute = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return plain | {str(node.module).partition(".")[0] for node in absolute}
