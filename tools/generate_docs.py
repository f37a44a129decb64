"""Generate docs/blueprints.md, cli.md, errors.md, metrics.md, settings.md and the lists of rooms in READMEs.

With ``--check`` nothing is written and the exit code is 1 when a committed page differs.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Final

import typer
from typer.cli import get_docs_for_click

from esper_cli.app import app as esper_app
from esper_core.blueprints import docs as blueprint_docs
from esper_core.errors import docs as error_docs
from esper_core.settings import EsperSettings
from esper_core.settings import docs as settings_docs
from esper_core.telemetry import catalog

REPOSITORY = Path(__file__).resolve().parents[1]
FIRST: Final = ("__main__.py", "settings.py", "servicer.py")
_TABLE: Final = re.compile(r"(?<=## Rooms\n\n)\| file \| what it is for \|\n\|---\|---\|\n(?:\|.*\n)*")
_ROW: Final = re.compile(r"^\| `(.+?)` \|", re.MULTILINE)


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="report differences instead of writing")
    check = bool(parser.parse_args().check)
    pages = {
        "docs/blueprints.md": blueprint_docs.render(),
        "docs/cli.md": cli_page(),
        "docs/errors.md": error_docs.render(),
        "docs/metrics.md": catalog.render(),
        "docs/settings.md": settings_docs.render(settings_classes()),
        **readmes(),
    }
    differing = [name for name, text in pages.items() if not is_current(REPOSITORY / name, text)]
    for name in differing:
        if check:
            print(f"{name} is not what the code says; run `make docs` and commit the result", file=sys.stderr)
        else:
            (REPOSITORY / name).write_text(pages[name], encoding="utf-8")
            print(f"{name} written")
    return 1 if check and differing else 0


def cli_page() -> str:
    """Return the reference of the command line, as its own help texts tell it."""
    command = typer.main.get_command(esper_app)
    context: Any = command.make_context("esper", [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name="esper") + "\n"


def readmes() -> dict[str, str]:
    """Return the README of every package, with its rooms as they are now."""
    packages = [path.parent for top in ("libs", "services") for path in REPOSITORY.glob(f"{top}/*/src/*/__init__.py")]
    paths = {package.parents[1] / "README.md": package for package in sorted(packages)}
    return {
        str(path.relative_to(REPOSITORY)): with_rooms(path.read_text(encoding="utf-8"), package)
        for path, package in paths.items()
    }


def with_rooms(text: str, package: Path) -> str:
    """Return a README with a row for each module and folder of its package, where it has such a list.

    Rows keep their order, which may be the order to read in; what is new comes last. A folder has one row, or one for
    each of its modules where the list names any of them.

    Parameters
    ----------
    text : str
        The README.
    package : Path
        The package that it describes.

    Raises
    ------
    ValueError
        If a module does not say what it is for.
    """
    found = _TABLE.search(text)
    if found is None:
        return text
    listed = _ROW.findall(found[0])
    present = rooms_of(package, opened={name.split("/")[0] for name in listed if name.endswith(".py") and "/" in name})
    kept = [name for name in listed if name in present]
    rows = "".join(f"| `{name}` | {purpose(package / name)} |\n" for name in [*kept, *newcomers(present, kept)])
    return text[: found.start()] + f"| file | what it is for |\n|---|---|\n{rows}" + text[found.end() :]


def rooms_of(package: Path, opened: set[str]) -> set[str]:
    """Return the modules and folders of a package, and the modules instead of a folder where it is opened."""
    rooms = {path.name for path in package.glob("*.py")}
    for folder in (path.parent for path in package.glob("*/__init__.py")):
        inside = {f"{folder.name}/{path.name}" for path in folder.glob("*.py") if path.name != "__init__.py"}
        rooms |= inside if folder.name in opened else {f"{folder.name}/"}
    return rooms - {"__init__.py"}


def newcomers(present: set[str], kept: list[str]) -> list[str]:
    """Return what a list does not name yet: where to begin, then modules, then folders."""
    return sorted(present - set(kept), key=lambda name: (name not in FIRST, name.endswith("/"), name))


def purpose(path: Path) -> str:
    """Return the first line of what a module, or a folder, says about itself."""
    module = path if path.is_file() else path / "__init__.py"
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not told:
        raise ValueError(f"{module} has no docstring; say in its first line what it is for.")
    return told.splitlines()[0]


def settings_classes() -> list[type[EsperSettings]]:
    """Return the settings classes of all services, in the order of their folders."""
    modules = sorted(path.parent.name for path in REPOSITORY.glob("services/*/src/*/settings.py"))
    return [each for name in modules for each in classes_of(f"{name}.settings")]


def classes_of(module_name: str) -> list[type[EsperSettings]]:
    """Return the settings classes that a module defines itself, without those that another of them extends."""
    members = inspect.getmembers(importlib.import_module(module_name), inspect.isclass)
    own = [each for _, each in members if issubclass(each, EsperSettings) and each.__module__ == module_name]
    return [each for each in own if not any(each in other.__bases__ for other in own)]


def is_current(path: Path, text: str) -> bool:
    """Return whether the file holds exactly this text."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    raise SystemExit(main())
