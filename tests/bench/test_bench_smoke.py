"""Every measurement runs to its report; what it measures here means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = [pytest.mark.timeout(200)]


def measured(folder: Path, *arguments: str) -> dict[str, object]:
    """Run a measurement in its quick form and return its report."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--quick", "--json", "--out", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    name = str(report["name"])
    assert json.loads((folder / f"{name}.json").read_text()) == report
    page = (folder / f"{name}.md").read_text()
    assert "## Method" in page and "## Machine and commit" in page
    return report


def test_a_managed_step_is_compared_with_a_bare_one(tmp_path: Path) -> None:
    report = measured(tmp_path, "step-overhead", "--size", "0.2 ms", "--part", "static")
    (states,) = report["figures"].values()  # type: ignore[attr-defined]
    assert set(states) == {"dormant, static run"}
    assert all(found["wall"]["bare_ms"]["p50"] > 0 for found in states.values())


def test_every_process_is_weighed(tmp_path: Path) -> None:
    figures = measured(tmp_path, "service-memory")["figures"]
    busy = figures["busy"]  # type: ignore[index]
    assert {"valkey", "oona", "tamiyo", "nissa", "training worker"} <= set(busy)
    assert all(usage["rss_mib"] > 1 for usage in busy.values())
