"""Generate docs/blueprints.md, cli.md, errors.md, metrics.md and settings.md from the code that they describe.

With ``--check`` nothing is written and the exit code is 1 when a committed page differs.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from esper_cli.app import app as esper_app
from esper_core.blueprints import docs as blueprint_docs
from esper_core.errors import docs as error_docs
from esper_core.settings import EsperSettings
from esper_core.settings import docs as settings_docs
from esper_core.telemetry import catalog

REPOSITORY = Path(__file__).resolve().parents[1]


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
