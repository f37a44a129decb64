"""How much worse validation got after a graft, and what the same measure says where nothing was grafted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.growth.run import Point, Trained

WINDOW: Final = 0.1
"""Share of the run's steps after a germination: training in isolation and blending, 2 % and 5 %, and some more."""

PLACEBO: Final = (0.08, 0.18)
"""Where a static net is looked at instead: the places of the fixed schedule."""


def worst_shock(run: Trained) -> float | None:
    """Return the largest relative rise of the validation loss after a graft; None where there was nothing to see.

    For a static net the same is measured at the places of the fixed schedule: what noise and the optimizer alone do.
    """
    steps = [seed["germinated_step"] for seed in run.seeds] or [round(at * run.steps) for at in PLACEBO]
    found = [shock for step in steps if (shock := _shock(run.curve, step, round(WINDOW * run.steps))) is not None]
    return max(found) if found else None


def _shock(curve: Sequence[Point], step: int, window: int) -> float | None:
    before = [point.loss for point in curve if point.step <= step]
    after = [point.loss for point in curve if step < point.step <= step + window]
    if not before or not after or before[-1] <= 0:
        return None
    return max(after) / before[-1] - 1.0
