"""Means, spreads and paired differences of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation; the deviation of a single value is not known."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

    def told(self, digits: int = 2, sign: bool = False) -> str:
        """Return it as text."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


def values(case: Mapping[str, Any], arm: str, name: str = "score") -> list[float]:
    """Return one figure of every run of an arm, in the order of the seeds."""
    return [run[name] for run in case["arms"][arm]["runs"] if run[name] is not None]


def difference(case: Mapping[str, Any], arm: str, other: str) -> Spread:
    """Return by how much an arm is better than another, seed by seed."""
    sign = -1.0 if case["lower_is_better"] else 1.0
    pairs = zip(values(case, arm), values(case, other), strict=True)
    return Spread.of([sign * (one - two) for one, two in pairs])


def regret(case: Mapping[str, Any]) -> float:
    """Return by how much the better static arm is better than the controller, on average."""
    names = [name for name in ("small", "big", "train-on", "restart-big") if name in case["arms"]]
    return max(-difference(case, "controller", name).mean for name in names)
