"""What both rule policies check before they grow, and how they turn the best candidate into a proposal."""

from __future__ import annotations

from tamiyo.actions import MAX_CANDIDATES, Action, Candidate, Risk, wait
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.policies.candidates import candidates
from tamiyo.policies.rules import GrowthRules


def hindrance(memory: RunMemory, rules: GrowthRules, now_s: float) -> Action | None:
    """Return why no seed may germinate now, or None when nothing stands against it."""
    plan = memory.plan
    if plan is None:
        return wait("waiting_for_evidence", "The run's plan is not known.")
    if plan.seeds_budget and memory.germinated >= plan.seeds_budget:
        return wait("budget_exhausted", f"All {plan.seeds_budget} seeds of the budget have germinated.")
    awaited = memory.awaited(now_s, rules.seed_patience_s)
    if awaited is not None:
        return wait("seed_in_progress", f"The seed of command {awaited.command_id} is being prepared.")
    spent = memory.fraction
    if not rules.window_start <= spent <= rules.window_end:
        window = f"{100 * rules.window_start:.0f} to {100 * rules.window_end:.0f} %"
        sentence = f"{100 * spent:.1f} % of the budget are spent; growing pays from {window}."
        return wait("outside_growth_window", sentence)
    return None


def grow(
    memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot, rules: GrowthRules, now_s: float, why: str
) -> Action:
    """Propose the best candidate, or wait because there is none."""
    ranked = candidates(memory, seen, snapshot, rules, now_s)
    if not ranked:
        return _none(memory, seen, snapshot)
    best = ranked[0]
    return Action(
        "GERMINATE",
        "",
        f"{why} {best.blueprint_id} at {best.site} {best.reason}, the best of {len(ranked)} candidates.",
        site=best.site,
        blueprint_id=best.blueprint_id,
        parameters=differing_parameters(best, snapshot),
        candidates=tuple(ranked[:MAX_CANDIDATES]),
        risk=_risk(best, snapshot),
    )


def _none(memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot) -> Action:
    plan = memory.plan
    if plan is not None and plan.parameters_budget and seen.parameters >= plan.parameters_budget:
        return wait("budget_exhausted", f"The model has {seen.parameters} parameters, as many as its budget allows.")
    known = len(snapshot.cards)
    return wait("no_candidates", f"None of {known} blueprints fits a free site within step, budget and embargoes.")


def differing_parameters(candidate: Candidate, snapshot: BlueprintSnapshot) -> dict[str, int | float | str]:
    """Return only the values that differ from the blueprint's defaults, so that ready kernels are found again."""
    card = snapshot.get(candidate.blueprint_id)
    default = card.blueprint.complete({}) if card is not None else {}
    return {name: value for name, value in candidate.parameters.items() if default.get(name) != value}


def _risk(candidate: Candidate, snapshot: BlueprintSnapshot) -> Risk:
    card = snapshot.get(candidate.blueprint_id)
    return Risk.of(card.risk if card is not None else 1.0)
