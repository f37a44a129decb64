"""One evaluation: what a policy proposes for a packet, made safer by the risk engine. Plain data in, plain data out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from esper_core.errors import DependencyViolationError
from tamiyo.actions import Action, wait
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.clockwork import Stopwatch
from tamiyo.conservative import DwellRules
from tamiyo.memory import RunMemory
from tamiyo.observation import ENDED, Observation
from tamiyo.policies import NO_POLICY, GrowthRules, Policy, policy_named
from tamiyo.risk import Judgement, RiskThresholds, Situation, judge

RAMP_FRACTION = 0.05
SHORTEST_RAMP_STEPS = 10


@dataclass(frozen=True, slots=True)
class Rulebook:
    """Everything that can be set about an evaluation."""

    growth: GrowthRules = field(default_factory=GrowthRules)
    risk: RiskThresholds = field(default_factory=RiskThresholds)
    dwell: DwellRules = field(default_factory=DwellRules)
    default_policy: str = "schedule"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of one packet.

    Attributes
    ----------
    proposed : Action
        What the policy said.
    judgement : Judgement
        What the risk engine left of it.
    entered_conservative, left_conservative : bool
        Whether the mode changed in this evaluation.
    """

    policy_name: str
    policy_version: str
    proposed: Action
    judgement: Judgement
    policy_ms: float
    conservative: bool
    entered_conservative: bool = False
    left_conservative: bool = False

    @property
    def action(self) -> Action:
        """The action that may leave."""
        return self.judgement.action


def require_plan(memory: RunMemory) -> None:
    """Refuse to judge a run whose plan never came.

    Raises
    ------
    DependencyViolationError
        Telling the sender to send a packet with its context.
    """
    if memory.plan is None:
        unknown = DependencyViolationError(
            f"The context of run {memory.run_id} is not known here. Send the next packet with `context`.",
            dependency="context",
        )
        unknown.retryable = True
        raise unknown


def evaluate(
    memory: RunMemory, seen: Observation, snapshot: BlueprintSnapshot, rules: Rulebook, now_s: float, watch: Stopwatch
) -> Evaluation:
    """Judge a packet that the memory has taken up already; moves the run's conservative mode, nothing else.

    Raises
    ------
    DependencyViolationError
        If the run's plan is not known.
    NotFoundError
        If the run asks for a policy that is not here.
    """
    require_plan(memory)
    policy = _policy(memory, rules)
    proposed = _propose(policy, memory, seen, snapshot, rules, now_s)
    policy_ms = watch.elapsed_ms()
    situation = Situation(
        memory=memory,
        seen=seen,
        mode=memory.mode,
        card=snapshot.get(proposed.blueprint_id) if proposed.blueprint_id else None,
        snapshot_age_s=snapshot.age_s,
        policy_ms=policy_ms,
        ramp_steps=ramp_steps(memory, proposed),
        thresholds=rules.risk,
    )
    judgement = judge(proposed, situation)
    before = memory.mode.on
    memory.mode = memory.mode.after(judgement.grave, judgement.healthy, now_s, rules.dwell)
    return Evaluation(
        policy_name=policy.name if policy else NO_POLICY,
        policy_version=policy.version if policy else "",
        proposed=proposed,
        judgement=judgement,
        policy_ms=policy_ms,
        conservative=before or memory.mode.on,
        entered_conservative=memory.mode.on and not before,
        left_conservative=before and not memory.mode.on,
    )


def _policy(memory: RunMemory, rules: Rulebook) -> Policy | None:
    name = (memory.plan.policy if memory.plan else "") or rules.default_policy
    return None if name == NO_POLICY else policy_named(name)


def _propose(
    policy: Policy | None,
    memory: RunMemory,
    seen: Observation,
    snapshot: BlueprintSnapshot,
    rules: Rulebook,
    now_s: float,
) -> Action:
    if policy is None:
        return wait("growth_disabled", "The run was submitted with the policy none.")
    if seen.run_state in ENDED:
        return wait("run_ended", "The run makes no further step.")
    return _with_ramp(policy.propose(memory, seen, snapshot, rules.growth, now_s), memory)


def ramp_steps(memory: RunMemory, action: Action) -> int:
    """Return the steps of a blend ramp over 5 % of the budget.

    Where FLOPs are bounded, steps cost more once the seed is there, so that fewer of them fill its share of the budget.
    """
    plan, seen = memory.plan, memory.now
    if plan is None or seen is None:
        return SHORTEST_RAMP_STEPS
    total = float(plan.total_steps)
    if plan.flops_budget > 0 and seen.flops_used > 0:
        now = max(1, seen.parameters or plan.host_parameters)
        added = action.candidates[0].parameters_added if action.candidates else 0
        total = plan.flops_budget * seen.step / seen.flops_used * now / (now + added)
    return max(SHORTEST_RAMP_STEPS, round(RAMP_FRACTION * total))


def _with_ramp(action: Action, memory: RunMemory) -> Action:
    if not action.grows or action.blend.ramp_steps:
        return action
    return replace(action, blend=replace(action.blend, ramp_steps=ramp_steps(memory, action)))
