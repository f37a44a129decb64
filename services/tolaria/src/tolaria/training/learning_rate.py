"""Learning-rate policies.

Every policy is a factor on a group's base rate, a function of the share of the budget that the coming step reaches.
Where steps rule, the share is one of optimizer steps: a batch in several parts is one of them. Where epochs rule it is
one of passes over the training split, a pass under way by its part; where FLOPs rule, one of FLOPs. The policies count
neither steps nor epochs of their own, so that a resumed run and another batch size need nothing converted:

    constant   1
    cosine     half a cosine from 1 to the floor at the end of its period, by default the whole budget; after it the
               rate holds its floor, or restarts at 1 with the next step
    step       1, then 0.1 from 50 % and 0.01 from 75 %
    plateau    halved when `PATIENCE` validation passes in a row bring no improvement

Warm-up rises linearly from `warmup_floor` to 1 and stands in front of every policy. Host and seeds may follow policies
of their own, seeds at `seed_factor` of the host's rate; what operators, commands and rollbacks multiply comes on top.

A host that stood still while a seed learned moves again at a tenth of its rate, and at all of it `THAW` of the budget
later (ADR 0012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import torch

from esper_core.errors import DependencyViolationError, ValidationError
from esper_runtime.optim import SEED_KEY
from tolaria.training.optimizer import BASE_LR, HOST_GROUP, group_name
from tolaria.training.plan import AFTER_PERIOD, LR_GROUPS, LR_POLICIES, LearningRatePlan

PATIENCE: Final = 5
IMPROVEMENT: Final = 1e-3
THAW: Final = 0.05
THAW_FLOOR: Final = 0.1
_ROUNDING: Final = 1e-9
_STEPS: Final = ((0.75, 0.01), (0.5, 0.1))


@dataclass(frozen=True, slots=True)
class LearningRateState:
    """What a policy remembers; plain data for a checkpoint.

    Parameters
    ----------
    scale : float
        Factor from operators, commands and rollbacks, on all groups.
    group_scales : Mapping[str, float]
        Factors on single groups.
    plateau : float
        Factor of the plateau policy.
    best_loss : float
        Best validation loss so far, infinite before the first pass.
    stale_passes : int
        Validation passes since the last improvement.
    thawed_at : float, optional
        Share of the budget at which the host last began to move again.
    thawed_by : str
        The seed for which it had stood still.
    """

    scale: float = 1.0
    group_scales: Mapping[str, float] = field(default_factory=dict)
    plateau: float = 1.0
    best_loss: float = math.inf
    stale_passes: int = 0
    thawed_at: float | None = None
    thawed_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; an infinite best loss becomes None, because JSON has no infinity."""
        data = asdict(self)
        data["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LearningRateState:
        """Read what `to_dict` wrote."""
        best = data["best_loss"]
        return cls(**{**data, "best_loss": math.inf if best is None else best})


class LearningRate:
    """Sets the rate of every optimizer group before each step.

    Parameters
    ----------
    plan : LearningRatePlan
        The policy.

    Raises
    ------
    ValidationError
        If the policy is unknown or a number is out of bounds.
    """

    def __init__(self, plan: LearningRatePlan) -> None:
        _check(plan)
        self._plan = plan
        self._of_host, self._of_seeds = (plan.groups.get(group, plan.policy) for group in LR_GROUPS)
        self.state = LearningRateState()

    def factor(self, fraction: float, group: str = HOST_GROUP) -> float:
        """Return the factor of a group's policy for a step that reaches this share of the budget."""
        return self._factor(self._policy_of(group), fraction)

    def _policy_of(self, group: str) -> str:
        return self._of_host if group == HOST_GROUP else self._of_seeds

    def _factor(self, policy: str, fraction: float) -> float:
        plan = self._plan
        if fraction < plan.warmup_fraction:
            return plan.warmup_floor + (1.0 - plan.warmup_floor) * fraction / plan.warmup_fraction
        done = (fraction - plan.warmup_fraction) / (1.0 - plan.warmup_fraction)
        shaped = _POLICIES[policy](done, plan)
        return max(plan.floor, shaped * self.state.plateau) if policy == "plateau" else shaped

    def apply(self, optimizer: torch.optim.Optimizer, fraction: float) -> None:
        """Set every group's rate.

        Raises
        ------
        DependencyViolationError
            If a group has no base rate: a default would train it at a rate that nobody chose.
        """
        scale, scales = self.state.scale, self.state.group_scales
        host = seeds = self._factor(self._of_host, fraction) * scale
        if self._of_seeds != self._of_host:
            seeds = self._factor(self._of_seeds, fraction) * scale
        if self.state.thawed_at is not None:
            host *= min(1.0, THAW_FLOOR + (1.0 - THAW_FLOOR) * (fraction - self.state.thawed_at) / THAW)
        for group in optimizer.param_groups:
            base = group.get(BASE_LR)
            if base is None:
                raise DependencyViolationError(
                    f"Optimizer group {group_name(group)!r} has no {BASE_LR}. Set it when the group is added.",
                    dependency=BASE_LR,
                )
            rate = base * self._plan.seed_factor * seeds if group.get(SEED_KEY) else base * host
            group["lr"] = rate * scales.get(group_name(group), 1.0) if scales else rate

    def thaw(self, fraction: float, seed_id: str) -> None:
        """Let the host, which stood still for a seed until this share of the budget, gather speed."""
        self.state = replace(self.state, thawed_at=fraction, thawed_by=seed_id)

    def forget_thaw(self, seed_id: str) -> None:
        """Let the host move at its whole rate where it gathers speed because of this seed, which is taken out."""
        if self.state.thawed_by == seed_id:
            self.state = replace(self.state, thawed_at=None, thawed_by="")

    def observe(self, validation_loss: float) -> None:
        """Tell the policy about a validation pass; only plateau listens."""
        state = self.state
        if "plateau" not in (self._of_host, self._of_seeds):
            return
        if validation_loss < state.best_loss * (1.0 - IMPROVEMENT):
            self.state = replace(state, best_loss=validation_loss, stale_passes=0)
        elif state.stale_passes + 1 >= PATIENCE:
            self.state = replace(state, plateau=state.plateau * 0.5, stale_passes=0)
        else:
            self.state = replace(state, stale_passes=state.stale_passes + 1)

    def rescale(self, factor: float, group: str = "") -> None:
        """Multiply the rate of one group, or of all, from the next step on.

        Raises
        ------
        ValidationError
            If the factor isn't above 0 and at most 2.
        """
        if not 0.0 < factor <= 2.0:
            raise ValidationError(
                f"The learning rate cannot be multiplied by {factor}.",
                field="learning_rate_factor",
                allowed="a number above 0, at most 2",
            )
        if not group:
            self.state = replace(self.state, scale=self.state.scale * factor)
            return
        scales = {**self.state.group_scales, group: self.state.group_scales.get(group, 1.0) * factor}
        self.state = replace(self.state, group_scales=scales)


def _constant(_done: float, _plan: LearningRatePlan) -> float:
    return 1.0


def _cosine(done: float, plan: LearningRatePlan) -> float:
    part = done / plan.period
    if part > 1.0:
        # The step that completes a period belongs to it, so that the last step of a run is never one at the full rate.
        part = 1.0 if plan.after_period == "hold" else 1.0 + part - math.ceil(part - _ROUNDING)
    return plan.floor + (1.0 - plan.floor) * 0.5 * (1.0 + math.cos(math.pi * part))


def _step(done: float, plan: LearningRatePlan) -> float:
    return max(plan.floor, next((factor for start, factor in _STEPS if done >= start), 1.0))


_POLICIES: Final[Mapping[str, Callable[[float, LearningRatePlan], float]]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
    "plateau": _constant,
}


def _check(plan: LearningRatePlan) -> None:
    _check_word("policy", plan.policy, LR_POLICIES)
    _check_word("after_period", plan.after_period, AFTER_PERIOD)
    for group, policy in plan.groups.items():
        _check_word("groups.group", group, LR_GROUPS)
        _check_word("groups.policy", policy, LR_POLICIES)
    if not 0.0 < plan.seed_factor <= 2.0:
        raise ValidationError(
            f"Seeds cannot learn at {plan.seed_factor} of the host's rate.",
            field="spec.learning_rate.seed_factor",
            allowed="a number above 0, at most 2",
        )
    if not 0.0 < plan.period <= 1.0:
        raise ValidationError(
            f"A cosine cannot take {plan.period} of the budget.",
            field="spec.learning_rate.period",
            allowed="a number above 0, at most 1",
        )
    if not 0.0 <= plan.warmup_fraction <= 0.5:
        raise ValidationError(
            f"A warm-up cannot take {plan.warmup_fraction} of the budget.",
            field="spec.learning_rate.warmup_fraction",
            allowed="a number from 0 to 0.5",
        )
    for name, value in (("floor", plan.floor), ("warmup_floor", plan.warmup_floor)):
        if not 0.0 <= value <= 1.0:
            raise ValidationError(
                f"A learning-rate {name} cannot be {value}.",
                field=f"spec.learning_rate.{name}",
                allowed="a number from 0 to 1",
            )


def _check_word(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValidationError(
            f"A learning rate's {name} cannot be {value!r}.", field=f"spec.learning_rate.{name}", allowed=allowed
        )
