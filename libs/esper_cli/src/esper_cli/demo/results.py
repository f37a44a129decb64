"""What the demo measured, and what may be said about it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from esper_cli.demo.plan import BIG, GROWN, SMALL, Budget, Search
from esper_core import leyline


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """How much of its FLOPs a run had spent at each step; a step costs more once the network has grown.

    Parameters
    ----------
    points : Sequence[tuple[int, float]]
        Steps with the fraction spent by then, in the order of steps.
    """

    points: Sequence[tuple[int, float]]

    @classmethod
    def of(cls, events: Sequence[leyline.RunEvent]) -> SpentBudget:
        """Take the points from the progress that a run told."""
        told = {event.progress.step: event.progress.fraction for event in events if event.HasField("progress")}
        return cls(sorted({0: 0.0, **told}.items()))

    def at(self, step: int) -> float:
        """Return the fraction spent at a step, interpolated between the points around it."""
        after = bisect_left(self.points, step, key=lambda point: point[0])
        if after == len(self.points) or self.points[after][0] == step:
            return self.points[min(after, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (step - left) / (right - left)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One validation pass."""

    step: int
    fraction: float
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class SeedStep:
    """A seed moved from one stage to another."""

    step: int
    fraction: float
    seed_id: str
    site: str
    blueprint_id: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One finished run of an arm.

    Parameters
    ----------
    arm : str
        Name of the arm.
    seed : int
        Random seed; equal seeds of different arms are pairs.
    summary : Mapping[str, Any]
        The run as `esper run show --json` tells it.
    curve : Sequence[CurvePoint]
        Validation passes.
    timeline : Sequence[SeedStep]
        What its seeds did.
    """

    arm: str
    seed: int
    summary: Mapping[str, Any]
    curve: Sequence[CurvePoint]
    timeline: Sequence[SeedStep]

    @property
    def accuracy(self) -> float:
        """Accuracy on the test split."""
        return float(self.summary["accuracy"])


@dataclass(frozen=True, slots=True)
class DemoResults:
    """Everything the demo measured."""

    runs: Sequence[ArmRun]
    search: Search
    budget: Budget
    wall_s: float
    machine: Mapping[str, Any]

    def of(self, arm: str) -> list[ArmRun]:
        """Return the runs of an arm, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def table(self) -> list[dict[str, Any]]:
        """Return one row for each arm: means over its seeds."""
        return [_row(arm, self.of(arm)) for arm in (SMALL, BIG, GROWN)]

    def claim(self) -> str:
        """Return what this run shows, and nothing more."""
        against_small, against_big = (_difference(self.of(GROWN), self.of(arm)) for arm in (SMALL, BIG))
        count = len(self.of(GROWN))
        if count == 1:
            return (
                f"In this one paired run at equal training FLOPs, the grown network is {_points(against_small[0])} "
                f"the tuned small one, and {_points(against_big[0])} the tuned big one. One seed is an example, "
                "not a comparison: use --seeds 5 for one."
            )
        return (
            f"Over {count} paired seeds at equal training FLOPs, the grown network is "
            f"{_points(against_small[0])} the tuned small one "
            f"(sd of the difference {100 * against_small[1]:.2f} points) and "
            f"{_points(against_big[0])} the tuned big one (sd {100 * against_big[1]:.2f} points)."
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "claim": self.claim(),
            "table": self.table(),
            "budget": asdict(self.budget),
            "learning_rates": {**self.search.chosen, GROWN: self.budget.grown_learning_rate},
            "learning_rate_search": {
                arm: {f"{rate:g}": loss for rate, loss in tried.items()} for arm, tried in self.search.losses.items()
            },
            "wall_s": self.wall_s,
            "machine": dict(self.machine),
            "runs": [asdict(run) for run in self.runs],
        }


def _row(arm: str, runs: Sequence[ArmRun]) -> dict[str, Any]:
    accuracies = [run.accuracy for run in runs]
    first = runs[0].summary
    return {
        "arm": arm,
        "seeds": len(runs),
        "accuracy": mean(accuracies),
        "accuracy_sd": stdev(accuracies) if len(accuracies) > 1 else None,
        "parameters_initial": first["parameters_initial"],
        "parameters_final": mean(run.summary["parameters_final"] for run in runs),
        "flops": mean(run.summary["flops"] for run in runs),
        "inference_flops_per_example": mean(run.summary["inference_flops_per_example"] for run in runs),
        "steps": mean(run.summary["steps"] for run in runs),
        "wall_s": mean(run.summary["wall_s"] for run in runs),
    }


def _difference(left: Sequence[ArmRun], right: Sequence[ArmRun]) -> tuple[float, float]:
    pairs = [one.accuracy - other.accuracy for one, other in zip(left, right, strict=True)]
    return mean(pairs), stdev(pairs) if len(pairs) > 1 else 0.0


def _points(difference: float) -> str:
    points = 100 * difference
    if abs(points) < 0.005:
        return "as accurate as"
    return f"{abs(points):.2f} points {'better than' if points > 0 else 'worse than'}"
