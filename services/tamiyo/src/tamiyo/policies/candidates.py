"""Where a run could grow, with what, and how promising each pair is.

The score is ``weight(operator) * log2(1 + added / parameters)`` plus up to 0.25 for a site near the input, less 0.15
where the same blueprint has been kept at the same site already: capacity counts with falling returns, relative to what
is there, an operator that computes something new at every position counts more than one that only rescales, what grows
early in the network serves all that comes after it (measured in docs/notes/growth-findings.md), and a net that is
widened in two places does better than one that is widened twice in one (docs/notes/letter-sizing.md). `widen` leads
where a site offers its input, `mlp_residual` on other features and sequences, `conv1d_residual` on channels_1d,
`conv2d_residual` on images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from esper_core.blueprints import Blueprint, ParameterValue
from tamiyo.actions import Candidate
from tamiyo.capacity import parameters_added
from tamiyo.catalogue import BlueprintCard, BlueprintSnapshot
from tamiyo.memory import RunMemory
from tamiyo.observation import KEPT, Observation, RunPlan, SiteView
from tamiyo.policies.rules import GrowthRules

WEIGHTS: Final[Mapping[str, float]] = {
    "widen": 1.15,
    "mlp_residual": 1.0,
    "conv1d_residual": 1.0,
    "conv2d_residual": 1.0,
    "gated_mlp": 0.9,
    "attention": 0.9,
    "mixture_of_experts": 0.8,
    "dilated_conv1d": 0.7,
    "dilated_conv2d": 0.7,
    "depthwise_conv1d": 0.7,
    "depthwise_conv2d": 0.7,
    "low_rank_linear": 0.5,
    "norm": 0.4,
    "squeeze_excitation": 0.4,
}
EARLY_SITE_BONUS: Final = 0.25
REPEAT_MALUS: Final = 0.15
PREFERENCE_BONUS: Final = 1.0


def candidates(
    memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot, rules: GrowthRules, now_s: float
) -> list[Candidate]:
    """Return every pair that may be germinated now, best first.

    Left out are blueprints that the run, the library or the site does not allow, sites that they do not fit or that
    lack the input they need, sites with a seed under way, pairs that were culled lately or never came up, and sizes
    beyond the growth step or the parameter budget.
    """
    plan = memory.plan
    if plan is None:
        return []
    found = [
        candidate
        for site in plan.sites
        if not _taken(seen, site)
        for card in _cards(plan, snapshot)
        if not _tried(memory, site.name, card.blueprint.blueprint_id, rules, now_s)
        if (candidate := _candidate(plan, seen, site, card, rules)) is not None
    ]
    return sorted(found, key=lambda one: (-one.score, one.site, one.blueprint_id))


def _taken(seen: Observation, site: SiteView) -> bool:
    return any(seed.site == site.name for seed in seen.unsettled())


def _tried(memory: RunMemory, site: str, blueprint_id: str, rules: GrowthRules, now_s: float) -> bool:
    lately = memory.culled_lately(site, blueprint_id, rules.culled_rest)
    return lately or memory.fruitless(site, blueprint_id, now_s, rules.seed_patience_s)


def _cards(plan: RunPlan, snapshot: BlueprintSnapshot) -> Iterator[BlueprintCard]:
    for blueprint_id in plan.blueprint_ids or sorted(snapshot.cards):
        card = snapshot.get(blueprint_id)
        if card is not None and not card.refusal:
            yield card


def _candidate(
    plan: RunPlan, seen: Observation, site: SiteView, card: BlueprintCard, rules: GrowthRules
) -> Candidate | None:
    """Return the largest variant that fits, or None."""
    blueprint, now = card.blueprint, max(1, seen.parameters or plan.host_parameters)
    if not site.admits(blueprint):
        return None
    for values in _variants(blueprint, rules):
        added = parameters_added(blueprint, values, site.contract)
        if added is not None and _fits(added, now, plan, rules):
            score = _score(blueprint, added, now, site, plan, rules) - _repeated(seen, site, blueprint)
            reason = f"adds {added} parameters to {now}"
            return Candidate(site.name, blueprint.blueprint_id, round(score, 6), reason, values, added)
    return None


def _variants(blueprint: Blueprint, rules: GrowthRules) -> Iterator[dict[str, ParameterValue]]:
    """Yield complete parameter values, largest first, the defaults among them."""
    default = blueprint.complete({})
    expansion = default.get("expansion")
    if expansion is None:
        yield default
        return
    bound = next(bound for bound in blueprint.parameters if bound.name == "expansion")
    low, high = float(getattr(bound, "minimum", 0.0)), float(getattr(bound, "maximum", math.inf))
    sizes = rules.expansions or (float(expansion),)
    for size in sorted({one for one in sizes if low <= one <= high}, reverse=True):
        yield blueprint.complete({**default, "expansion": size})


def _fits(added: int, now: int, plan: RunPlan, rules: GrowthRules) -> bool:
    within_step = now + added <= rules.growth_max * now
    within_budget = plan.parameters_budget == 0 or now + added <= plan.parameters_budget
    return within_step and within_budget


def _score(blueprint: Blueprint, added: int, now: int, site: SiteView, plan: RunPlan, rules: GrowthRules) -> float:
    deepest = max(one.depth for one in plan.sites)
    early = EARLY_SITE_BONUS * (1 - site.depth / deepest) if deepest else 0.0
    preferred = PREFERENCE_BONUS if site.name in rules.sites_preferred else 0.0
    return WEIGHTS.get(blueprint.operator, 0.0) * math.log2(1 + added / now) + early + preferred


def _repeated(seen: Observation, site: SiteView, blueprint: Blueprint) -> float:
    kept = any(
        seed.site == site.name and seed.blueprint_id == blueprint.blueprint_id
        for seed in seen.seeds
        if seed.stage in KEPT
    )
    return REPEAT_MALUS if kept else 0.0
