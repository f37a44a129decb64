"""`heuristic`: grow when the evidence says that capacity is short: training loss flat, and no gap to validation."""

from __future__ import annotations

from typing import Final

from tamiyo.actions import Action, wait
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.policies.growing import grow, hindrance
from tamiyo.policies.rules import GrowthRules
from tamiyo.policies.settling import settle

NAME: Final = "heuristic"
VERSION: Final = "heuristic-1.1.0"
DESCRIPTION: Final = "Germinates when the training loss is flat and validation shows no overfitting; keeps what helps."
FEWEST_POINTS: Final = 8
"""By fewer points a line says nothing about the loss."""


def propose(
    memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot, rules: GrowthRules, now_s: float
) -> Action:
    """Propose one action; parameters are those of `schedule.propose`."""
    settling = settle(memory, seen, rules, now_s)
    if settling is not None:
        return settling
    if seen.final:
        return wait("run_ending", "The run is at its last fence and every seed is settled.")
    return (
        hindrance(memory, rules, now_s)
        or _no_evidence(memory, rules)
        or grow(
            memory,
            seen,
            snapshot,
            rules,
            now_s,
            "The training loss is flat and validation follows it: capacity is short.",
        )
    )


def relative_gain(memory: RunMemory, window: float) -> float | None:
    """Return by which share of itself the smoothed loss falls over `window` of the budget, by its latest points.

    It is the slope of a least-squares line times the width of the window, over the mean loss. The points are those of
    the window, or the last eight where it holds fewer, as it does once steps have become dear. None while they do not
    span nine tenths of the window, or where a seed was attached among them, whose arrival moves the loss by itself.
    """
    start = memory.fraction - window
    within = [point for point in memory.losses if point.fraction >= start]
    points = within if len(within) >= FEWEST_POINTS else list(memory.losses)[-FEWEST_POINTS:]
    if len(points) < FEWEST_POINTS or points[-1].fraction - points[0].fraction < 0.9 * window:
        return None
    if any(one.kind == "GERMINATE" and one.fraction >= min(start, points[0].fraction) for one in memory.sent):
        return None
    mean_x = sum(point.fraction for point in points) / len(points)
    mean_y = sum(point.loss for point in points) / len(points)
    spread = sum((point.fraction - mean_x) ** 2 for point in points)
    slope = sum((point.fraction - mean_x) * (point.loss - mean_y) for point in points) / spread
    return -slope * window / mean_y if mean_y > 0 else None


def _no_evidence(memory: RunMemory, rules: GrowthRules) -> Action | None:
    """Return why the evidence does not ask for capacity, or None when it does."""
    gain = relative_gain(memory, rules.flat_window)
    validation, now = memory.validation, memory.now
    loss = now.figures.loss_ewma if now is not None else None
    if gain is None or validation is None or loss is None:
        return wait("waiting_for_evidence", "Too little is known of the losses to tell whether capacity is short.")
    if gain > rules.flat_gain:
        sentence = (
            f"The training loss still fell by {100 * gain:.1f} % over {100 * rules.flat_window:.0f} % of the budget."
        )
        return wait("still_improving", sentence)
    ratio = validation.loss / loss if loss > 0 else float("inf")
    if ratio > rules.overfit_ratio:
        sentence = f"Validation loss is {ratio:.2f} times the training loss; more capacity would overfit."
        return wait("overfitting", sentence)
    return None
