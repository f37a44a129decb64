"""`schedule`: grow early, at fixed fractions of the budget, one seed after the other. The strong baseline."""

from __future__ import annotations

from typing import Final

from tamiyo.actions import Action, wait
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.policies.growing import grow, hindrance
from tamiyo.policies.rules import GrowthRules
from tamiyo.policies.settling import settle

NAME: Final = "schedule"
VERSION: Final = "schedule-1.0.0"
DESCRIPTION: Final = "Germinates at fixed early fractions of the budget, one seed after the other; keeps what helps."


def propose(
    memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot, rules: GrowthRules, now_s: float
) -> Action:
    """Propose one action.

    Parameters
    ----------
    memory : RunMemory
        What is known of the run, this packet included; not changed.
    seen : Observation
        The packet.
    snapshot : BlueprintSnapshot
        The library.
    rules : GrowthRules
        Bounds.
    now_s : float
        Monotonic time.
    """
    settling = settle(memory, seen, rules, now_s)
    if settling is not None:
        return settling
    if seen.final:
        return wait("run_ending", "The run is at its last fence and every seed is settled.")
    stop = hindrance(memory, rules, now_s)
    if stop is not None:
        return stop
    turn = memory.germinated
    if turn >= len(rules.fractions):
        return wait("budget_exhausted", f"All {len(rules.fractions)} places of the schedule are used.")
    due = rules.fractions[turn]
    if memory.fraction < due:
        return wait("waiting_for_schedule", f"Seed {turn + 1} is due at {100 * due:.0f} % of the budget.")
    return grow(
        memory, seen, snapshot, rules, now_s, f"{100 * memory.fraction:.1f} % of the budget: seed {turn + 1} is due."
    )
