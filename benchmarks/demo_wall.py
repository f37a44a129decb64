"""Wall time of the main job as a newcomer meets it: a fresh clone, an empty environment, `make setup`, `make demo`.

    python -m benchmarks demo-wall [--short] [--json]

The committed state is cloned into a temporary folder; packages come from pip's cache or index, as they do for anybody.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import FOLDER, Report, Table

METHOD: Final = (
    "`git clone` of the commit into an empty folder, then `make setup` (creates .venv, installs everything pinned), "
    "then `make demo`; wall time of each command.",
    "The demo trains 9 runs: three learning rates for each static network on a second seed, then the three arms, two "
    "trainings at a time. Its own report tells the wall time of its trainings; the rest is starting and stopping the "
    "stack and drawing the report.",
    "How long the setup takes depends on how far away the package index is, and on pip's cache.",
)


def measure(*, short: bool) -> dict[str, Any]:
    """Clone, set up and run the demo; returns the wall times and what the demo reported."""
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        clone = Path(folder) / "esper"
        _run(["git", "clone", "--quiet", str(FOLDER.parent), str(clone)], Path(folder))
        setup_s = _run(["make", "setup"], clone)
        demo_s = _run(["make", "demo-short" if short else "demo"], clone)
        told = json.loads((clone / "esper-demo" / "report.json").read_text())
    return {
        "setup_s": round(setup_s, 1),
        "demo_s": round(demo_s, 1),
        "trainings_s": round(told["wall_s"], 1),
        "claim": told["claim"],
        "table": told["table"],
    }


def _run(command: Sequence[str], folder: Path) -> float:
    """Run a command in a folder without this process's environment; returns the seconds it took."""
    print(" ".join(command), file=sys.stderr, flush=True)
    foreign = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return time.monotonic() - began


def report(figures: Mapping[str, Any]) -> Report:
    """Put the figures into a report."""
    together = figures["setup_s"] + figures["demo_s"]
    times = [
        ("make setup, from an empty folder", f"{figures['setup_s']:.0f} s"),
        ("make demo", f"{figures['demo_s']:.0f} s"),
        ("of which trainings", f"{figures['trainings_s']:.0f} s"),
        ("both commands", f"{together:.0f} s"),
    ]
    arms = [
        (
            row["arm"],
            f"{100 * row['accuracy']:.2f} %",
            f"{row['parameters_initial']:.0f} → {row['parameters_final']:.0f}",
            f"{row['flops']:.3g}",
            f"{row['wall_s']:.1f} s",
        )
        for row in figures["table"]
    ]
    tables = [
        Table("Wall time", ("what", "time"), times),
        Table("What the demo showed", ("arm", "test accuracy", "parameters", "training FLOPs", "wall time"), arms),
    ]
    findings = [f"From a fresh clone to the report: {together:.0f} s.", figures["claim"]]
    return Report("demo_wall", "How long the main job takes", findings, METHOD, figures, tables)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks demo-wall",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="the demo's short form")
    parser.add_argument("--out", type=Path, help="folder of the report; the folder benchmarks when left out")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    chosen = parser.parse_args(arguments)
    made = report(measure(short=chosen.short))
    page = made.write(chosen.out) if chosen.out else made.write()
    print(json.dumps(made.as_json()) if chosen.json else f"Report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
