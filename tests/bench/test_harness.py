"""The standing scenarios run to their reports; what they measure here means nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.harness import command, scenarios
from benchmarks.harness.command import SCENARIOS
from benchmarks.harness.figures import COLUMNS, Measured

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.req("TOL-39")


def test_three_scenarios_are_told_as_page_json_and_csv(tmp_path: Path) -> None:
    """The fourth needs a whole stack; what it asks of that is measured by the prefetch benchmark."""
    chosen = ["steady_train", "rollback_deadline", "tamiyo_timeout"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "harness", "--quick", "--json", "--out", tmp_path, "--scenario", *chosen],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "harness.json").read_text()) == report
    assert list(report["figures"]) == chosen and report["commit"] and report["machine"]["processor"]
    assert "## Method" in (tmp_path / "harness.md").read_text()
    with (tmp_path / "harness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and all(all(row.values()) for row in rows)
    assert len(rows) == sum(len(figures) for figures in report["figures"].values())
    phases = {row["phase"] for row in rows if row["scenario"] == "tamiyo_timeout"}
    assert phases == {"alive", "timing out", "lost", "coming back", "back", "all"}


def test_a_burst_is_told_beside_the_others() -> None:
    arm = {"requests": 30, "p50_ms": 2.0, "p95_ms": 3.0, "p99_ms": 4.0, "per_s": 500.0}
    figures = [each for name in ("bare fetch", "prefetched") for each in scenarios.arm_figures(name, arm)]
    made = command.report({"kasmina_prefetch_burst": Measured("method", figures)})
    assert "500 kernels a second through the bus, p99 4.0 ms" in made.as_markdown()
    assert set(SCENARIOS) == {"steady_train", "rollback_deadline", "tamiyo_timeout", "kasmina_prefetch_burst"}
