"""The bounds that the rule policies keep; the settings fill them. Fractions are of the run's budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrowthRules:
    """When, where and how far a run may grow.

    Attributes
    ----------
    fractions : tuple of float
        `schedule`: when the first seed, the second, and so on may germinate.
    window_start, window_end : float
        No germination before or after.
    growth_max : float
        Parameters after a growth step over those before it.
    expansions : tuple of float
        Values tried for a blueprint's `expansion`, largest first; empty means its default alone.
    sites_preferred : tuple of str
        Sites that are grown first where they exist, in this order.
    culled_rest : float
        Share of the budget for which a culled pair of site and blueprint is left alone.
    seed_patience_s : float
        How long a germination may stay without its seed before the next one is proposed.
    repeat_s, final_repeat_s : float
        How long to wait before a settling command is sent again, and at the last fence.
    final_patience_s : float
        How long the last fence may wait for evidence before an unproved seed is culled.
    harm_tolerance : float
        Relative rise of the loss since germination that is forgiven a seed that the network leans on.
    flat_window, flat_gain : float
        `heuristic`: the smoothed loss counts as flat when it fell by less than `flat_gain` of itself over `flat_window`
        of the budget.
    overfit_ratio : float
        `heuristic`: validation loss over training loss above which more capacity would only overfit.
    """

    fractions: tuple[float, ...] = (0.08, 0.18, 0.30, 0.42)
    window_start: float = 0.03
    window_end: float = 0.5
    growth_max: float = 2.0
    expansions: tuple[float, ...] = (1.75, 1.5, 1.0, 0.75, 0.5, 0.25, 0.125)
    sites_preferred: tuple[str, ...] = ()
    culled_rest: float = 0.25
    seed_patience_s: float = 30.0
    repeat_s: float = 5.0
    final_repeat_s: float = 1.5
    final_patience_s: float = 4.0
    harm_tolerance: float = 0.05
    flat_window: float = 0.03
    flat_gain: float = 0.4
    overfit_ratio: float = 1.4
