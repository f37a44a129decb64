"""The repository's own source files, for tests that read code instead of running it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
GENERATED = REPOSITORY / "libs" / "esper_core" / "src" / "esper_core" / "pb"


def package_folders() -> list[Path]:
    """Return the folder of every library and service."""
    return sorted(
        path.parent for place in ("libs", "services") for path in REPOSITORY.glob(f"{place}/*/pyproject.toml")
    )


def our_modules(folder: Path | None = None) -> Iterator[Path]:
    """Yield the Python files of all our packages, or of one package folder, without generated ones."""
    for package in [folder] if folder else package_folders():
        for path in sorted((package / "src").rglob("*.py")):
            if not path.is_relative_to(GENERATED):
                yield path


def name_of(path: Path) -> str:
    """Return the path as it reads from the repository's root."""
    return path.relative_to(REPOSITORY).as_posix()


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return everything that a file says, parsed once however many tests read it."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def script(name: str) -> ModuleType:
    """Load a Python file that belongs to no package, such as `tools/traceability.py`, by its name in the repository."""
    path = REPOSITORY / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
