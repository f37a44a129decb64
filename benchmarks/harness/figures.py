"""What a scenario gives back, and how it looks as rows for a spreadsheet."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import Report

COLUMNS: Final = (
    "scenario", "phase", "metric", "unit", "value", "count",
    "commit", "processor", "cores", "measured_at", "method",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes
    ----------
    phase : str
        In which situation it was measured.
    count : int
        How many measurements it sums up.
    """

    phase: str
    metric: str
    unit: str
    value: float
    count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A scenario's figures, with the sentence that says how they were made."""

    method: str
    figures: Sequence[Figure]

    def value(self, phase: str, metric: str) -> float:
        """Return one figure."""
        return next(each.value for each in self.figures if (each.phase, each.metric) == (phase, metric))


@dataclass(frozen=True, slots=True)
class Steps:
    """Wall time of some steps and processor time of their thread, in ms.

    The second hardly feels what else the machine is doing, which the first does, but no waiting either.
    """

    wall_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)


def step_figures(phase: str, steps: Steps) -> Iterator[Figure]:
    """Yield what a training thread felt over some steps: percentiles, the longest, and how many steps a second."""
    wall, count = steps.wall_ms, len(steps.wall_ms)
    for share in (50, 90, 99):
        yield Figure(phase, f"step_p{share}", "ms", float(np.percentile(wall, share)), count)
    yield Figure(phase, "step_longest", "ms", max(wall), count)
    yield Figure(phase, "steps_per_s", "1/s", 1000 / statistics.fmean(wall), count)
    yield Figure(phase, "step_processor_p50", "ms", statistics.median(steps.processor_ms), count)


def write_csv(path: Path, report: Report, scenarios: Mapping[str, Measured]) -> None:
    """Write one row for each figure; every row says machine, commit and method, so that files can be joined."""
    about = (report.commit, report.machine["processor"], report.machine["cores"], report.measured_at)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, measured in scenarios.items():
            for each in measured.figures:
                row = (name, each.phase, each.metric, each.unit, f"{each.value:.6g}", each.count)
                writer.writerow((*row, *about, measured.method))
