"""Total improvement: how far the loss is below the curve that the model was on before the seed was germinated.

Held-out losses L at steps t before germination are fitted by a power law, log L = a + b log t, with the Theil–Sen slope
(the median of all pairwise slopes), which one odd point cannot move. The standard error is that of one more point at a
later step. It comes from the root mean square of the residuals, with the two fitted numbers taken off their count: a
median of so few is often next to nothing, because the line goes through some of them. It holds the noise of that point
itself, and grows with the distance in log t from the points, as for a straight line. A power law flattens on its own,
so that a healthy curve isn't extrapolated below zero.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MINIMUM_POINTS: Final = 4


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean held-out loss at an optimizer step."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Improvement:
    """What the curve promised, what was observed, and by how much a point may miss it (standard error, in loss)."""

    expected_loss: float
    observed_loss: float
    standard_error: float

    @property
    def improvement(self) -> float:
        """Expected minus observed loss; positive is good."""
        return self.expected_loss - self.observed_loss


def measure_improvement(before: Sequence[CurvePoint], now: CurvePoint) -> Improvement | None:
    """Compare a point with the curve from before germination.

    Parameters
    ----------
    before : Sequence[CurvePoint]
        Points up to germination; those at step 0 or without a positive loss are left out, and so is the first half
        of the way to germination where enough points remain, because early training is steeper than what follows.
    now : CurvePoint
        The point to judge, on the same held-out data.

    Returns
    -------
    Improvement or None
        None where fewer than `MINIMUM_POINTS` usable points exist: then nothing can be told.
    """
    usable = _usable(before)
    if len(usable) < MINIMUM_POINTS or now.step <= 0:
        return None
    line = _fit(usable)
    if line is None:
        return None
    expected, error = line.at(math.log(now.step))
    return Improvement(expected_loss=expected, observed_loss=now.loss, standard_error=error)


@dataclass(frozen=True, slots=True)
class _Line:
    intercept: float
    slope: float
    spread: float
    count: int
    mean_x: float
    sum_squares_x: float

    def at(self, x: float) -> tuple[float, float]:
        expected = math.exp(self.intercept + self.slope * x)
        of_line = 1 / self.count + (x - self.mean_x) ** 2 / self.sum_squares_x
        relative = self.spread * math.sqrt(1 + of_line)
        return expected, expected * relative


def _usable(before: Sequence[CurvePoint]) -> list[CurvePoint]:
    sound = [point for point in before if point.step > 0 and point.loss > 0 and math.isfinite(point.loss)]
    if not sound:
        return []
    late = [point for point in sound if point.step >= sound[-1].step / 2]
    return late if len(late) >= MINIMUM_POINTS else sound


def _fit(points: Sequence[CurvePoint]) -> _Line | None:
    xs = [math.log(point.step) for point in points]
    ys = [math.log(point.loss) for point in points]
    slopes = [
        (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(zip(xs, ys, strict=True), 2) if x1 != x2
    ]
    if not slopes:
        return None
    slope = statistics.median(slopes)
    intercept = statistics.median(y - slope * x for x, y in zip(xs, ys, strict=True))
    squares = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    mean = statistics.fmean(xs)
    return _Line(
        intercept=intercept,
        slope=slope,
        spread=math.sqrt(squares / (len(points) - 2)),
        count=len(points),
        mean_x=mean,
        sum_squares_x=sum((x - mean) ** 2 for x in xs),
    )
