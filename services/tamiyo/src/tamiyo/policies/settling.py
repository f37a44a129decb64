"""What every rule policy does about a seed whose fate is open: keep what helps, remove what does not, else wait."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from esper_core import leyline
from tamiyo.actions import Action, Kind, Risk, wait
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation, SeedView
from tamiyo.policies.rules import GrowthRules

_MERIT_STAGES = (leyline.SEED_STAGE_SHADOWING, leyline.SEED_STAGE_PROBATIONARY)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should become of a seed, and why."""

    kind: Kind
    rationale: str


def settle(memory: RunMemory, seen: Observation, rules: GrowthRules, now_s: float) -> Action | None:
    """Return what to do about the first seed that needs it, or None when every seed is settled.

    Parameters
    ----------
    memory : RunMemory
        What is known of the run.
    seen : Observation
        The packet.
    rules : GrowthRules
        Bounds.
    now_s : float
        Monotonic time.
    """
    open_seeds = list(seen.unsettled())
    waiting: Action | None = None
    for seed in open_seeds:
        verdict = judge(seed, memory, seen, rules, now_s)
        if verdict.kind == "WAIT":
            waiting = waiting or wait("seed_in_progress", verdict.rationale)
        elif _sent_lately(memory, verdict, seed, rules.final_repeat_s if seen.final else rules.repeat_s, now_s):
            waiting = waiting or wait("command_pending", f"{verdict.kind} of {seed.seed_id} was sent and is under way.")
        else:
            return _command(verdict, seed)
    return waiting


def judge(seed: SeedView, memory: RunMemory, seen: Observation, rules: GrowthRules, now_s: float) -> Verdict:
    """Judge one unsettled seed.

    A seed on probation is kept when the interval of its contribution lies above zero, removed when it lies at or below
    zero, and removed when the loss rose since germination although the network leans on it. At the last fence the same
    holds in SHADOWING already, and what is not proved is removed.
    """
    decisive = seed.stage == leyline.SEED_STAGE_PROBATIONARY or (seen.final and seed.stage in _MERIT_STAGES)
    if decisive and seed.contribution_low is not None and seed.contribution_high is not None:
        verdict = _by_contribution(seed, seed.contribution_low, seed.contribution_high, memory, rules)
        if verdict is not None:
            return verdict
    if seen.final:
        return _at_the_end(seed, memory, rules, now_s)
    stage = leyline.SeedStage.Name(leyline.SeedStage.ValueType(seed.stage)).removeprefix("SEED_STAGE_")
    return Verdict("WAIT", f"{seed.seed_id} is in {stage}; its contribution is not decided yet.")


def _by_contribution(seed: SeedView, low: float, high: float, memory: RunMemory, rules: GrowthRules) -> Verdict | None:
    interval = f"95 % interval {low:.4f} to {high:.4f}"
    if high <= 0.0:
        return Verdict("CULL", f"{seed.seed_id} does not lower the held-out loss ({interval}).")
    if low <= 0.0:
        return None
    rise = _rise_since_germination(seed, memory)
    if rise is not None and rise > rules.harm_tolerance:
        return Verdict(
            "CULL", f"{seed.seed_id} made itself necessary without helping: the loss rose by {100 * rise:.1f} %."
        )
    return Verdict("FOSSILIZE", f"{seed.seed_id} lowers the held-out loss by {_told(seed)} ({interval}).")


def _at_the_end(seed: SeedView, memory: RunMemory, rules: GrowthRules, now_s: float) -> Verdict:
    waited_s = now_s - (now_s if memory.final_since_s is None else memory.final_since_s)
    if seed.stage in _MERIT_STAGES and waited_s < rules.final_patience_s:
        return Verdict("WAIT", f"The run is at its last fence; {seed.seed_id} is being probed.")
    return Verdict("CULL", f"The run ends and {seed.seed_id} has not proved that it helps.")


def _rise_since_germination(seed: SeedView, memory: RunMemory) -> float | None:
    """Return the relative change of the loss since the seed was planted, None where either end is unknown.

    Validation losses are compared where both exist, the middle ones of the last three, because a single pass may fall
    on a leap; smoothed training losses otherwise.
    """
    planted = (memory.now.step if memory.now else 0) - seed.age_steps
    before = [one.loss for one in memory.validations if one.step <= planted]
    after = [one.loss for one in memory.validations if one.step > planted]
    if before and after:
        then, now = median(before[-3:]), median(after[-3:])
        return now / then - 1.0 if then > 0 else None
    early = [one.loss for one in memory.losses if one.step <= planted]
    if not early or not memory.losses or early[-1] <= 0:
        return None
    return memory.losses[-1].loss / early[-1] - 1.0


def _sent_lately(memory: RunMemory, verdict: Verdict, seed: SeedView, pause_s: float, now_s: float) -> bool:
    last = memory.last_sent(verdict.kind, seed.seed_id)
    return last is not None and last.at_s is not None and now_s - last.at_s < pause_s


def _command(verdict: Verdict, seed: SeedView) -> Action:
    return Action(
        verdict.kind,
        "",
        verdict.rationale,
        seed_id=seed.seed_id,
        site=seed.site,
        blueprint_id=seed.blueprint_id,
        risk=Risk.of(seed.risk_score),
    )


def _told(seed: SeedView) -> str:
    return "an unknown amount" if seed.contribution is None else f"{seed.contribution:.4f}"
