"""What every measurement ends in: a Markdown page and a JSON file that say machine, commit, method and figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

FOLDER: Final = Path(__file__).parent
_LIBRARIES: Final = ("torch", "grpcio", "protobuf")


def describe_machine() -> dict[str, Any]:
    """Describe the machine and what else it is doing, without its name."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
    }


def describe_commit() -> str:
    """Return the commit that is checked out, and whether the code differs from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown (not a git checkout)"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "libs", "services", "proto")
    return f"{head} with uncommitted changes" if changed else head


@dataclass(frozen=True, slots=True)
class Table:
    """Figures for people, in rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(["## " + self.title, "", *("| " + " | ".join(line) + " |" for line in lines)])


@dataclass(frozen=True, slots=True)
class Report:
    """A measurement.

    Parameters
    ----------
    name : str
        Name of its files.
    title : str
        What was measured, as a heading.
    findings : sequence of str
        What the figures say; one sentence or paragraph each.
    method : sequence of str
        How it was measured, so that somebody else can do it again.
    figures : plain data
        Everything that was measured, for the JSON file.
    tables : sequence of Table
        The same for people.
    """

    name: str
    title: str
    findings: Sequence[str]
    method: Sequence[str]
    figures: Any
    tables: Sequence[Table]
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    commit: str = field(default_factory=describe_commit)
    measured_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def as_json(self) -> dict[str, Any]:
        """Return everything but the tables as plain data."""
        return {
            "name": self.name,
            "measured_at": self.measured_at,
            "machine": dict(self.machine),
            "commit": self.commit,
            "method": list(self.method),
            "findings": list(self.findings),
            "figures": self.figures,
        }

    def as_markdown(self) -> str:
        """Return the page."""
        parts = [
            f"# {self.title}",
            _bullets(self.findings),
            *(table.as_markdown() for table in self.tables),
            "## Method\n\n" + _bullets(self.method),
            "## Machine and commit\n\n" + _bullets([*_machine_lines(self.machine), f"commit {self.commit}"]),
            f"Measured {self.measured_at}. All figures: `{self.name}.json`.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path = FOLDER) -> Path:
        """Write both files and return the page."""
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{self.name}.md"
        page.write_text(self.as_markdown())
        (folder / f"{self.name}.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
        return page


def _machine_lines(about: Mapping[str, Any]) -> list[str]:
    libraries = ", ".join(f"{name} {about[name]}" for name in _LIBRARIES)
    load = ", ".join(str(number) for number in about["load_average"])
    return [
        f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB; {about['system']}",
        f"Python {about['python']}, {libraries}",
        f"load average over 1, 5 and 15 minutes at the end: {load}",
    ]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
