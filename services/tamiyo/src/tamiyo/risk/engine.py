"""The risk engine: evaluators in a fixed order, each of which can only make an action safer. All findings are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from esper_core import leyline
from tamiyo.actions import Action
from tamiyo.risk import measured, proposal
from tamiyo.risk.findings import Evaluator, Finding, Situation, apply

EVALUATORS: Final[tuple[Evaluator, ...]] = (
    proposal.policy_risk,
    proposal.conservative_mode,
    proposal.timeouts,
    proposal.blueprint_risk,
    proposal.bsds,
    measured.loss_metrics,
    measured.latency_metrics,
    measured.isolation_and_device,
    measured.optimizer_hints,
    measured.stabilisation,
    measured.conservative_recovery,
)
"""The order is part of the contract: the first reason that changed the action stands."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The action that may leave, and how it came to that.

    Attributes
    ----------
    reason : int
        A value of `leyline.RiskReason`; POLICY when nothing intervened.
    findings : tuple of Finding
        In the order of the evaluators.
    """

    action: Action
    reason: int
    findings: tuple[Finding, ...]

    @property
    def grave(self) -> str:
        """Why the run must enter conservative mode; empty when it need not."""
        return next((finding.explanation for finding in self.findings if finding.grave), "")

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that asks for more than a note or a softer blend."""
        waiting = ("conservative_mode", "conservative_recovery")
        return not any(one.effect == "hold" and one.evaluator not in waiting for one in self.findings)


def judge(action: Action, situation: Situation) -> Judgement:
    """Let every evaluator look at the action as its predecessors left it."""
    proposed, reason = action, int(leyline.RISK_REASON_POLICY)
    findings: list[Finding] = []
    for evaluator in EVALUATORS:
        for finding in evaluator(action, situation):
            safer = apply(action, finding, situation)
            changed = safer is not action
            takes_over = finding.overrides and not proposed.waits
            if takes_over or (changed and reason == leyline.RISK_REASON_POLICY):
                reason = finding.reason
            findings.append(replace(finding, changed=changed))
            action = safer
    return Judgement(action, reason, tuple(findings))
