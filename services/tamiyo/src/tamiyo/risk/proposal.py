"""Evaluators of the proposal itself: the policy's estimate, the mode, timeouts, the blueprint and its data sheet."""

from __future__ import annotations

from esper_core import leyline
from tamiyo.actions import Action
from tamiyo.risk.findings import Finding, Situation


def policy_risk(action: Action, now: Situation) -> list[Finding]:
    """Hold what the policy itself calls critical, soften what it calls elevated."""
    score, bounds = action.risk.score, now.thresholds
    if action.waits or score < bounds.policy_elevated:
        return []
    if score >= bounds.policy_critical:
        text, reason = "The policy rates its own proposal critical.", leyline.RISK_REASON_POLICY_RISK_CRITICAL
        return [Finding("policy_risk", reason, text, score, bounds.policy_critical, "hold", grave=True)]
    text = "The policy rates its own proposal risky."
    reason = leyline.RISK_REASON_POLICY_RISK_ELEVATED
    return [Finding("policy_risk", reason, text, score, bounds.policy_elevated, "soften")]


def conservative_mode(action: Action, now: Situation) -> list[Finding]:
    """Hold growth and optimizer changes while the mode is on; an operator's word stands above other reasons."""
    if not now.mode.on:
        return []
    by_operator = now.mode.by_operator
    reason = leyline.RISK_REASON_OPERATOR_OVERRIDE if by_operator else leyline.RISK_REASON_CONSERVATIVE_MODE
    text = f"Conservative mode is on: {now.mode.reason}"
    return [Finding("conservative_mode", reason, text, effect="hold", overrides=by_operator)]


def timeouts(action: Action, now: Situation) -> list[Finding]:
    """Hold what was decided too slowly, or on a library that has not been heard for too long.

    One slow evaluation is not grave by itself: the breaker counts them, and its opening is.
    """
    found, bounds = [], now.thresholds
    if now.policy_ms > bounds.step_budget_ms:
        text, reason = "The policy used up the whole step budget.", leyline.RISK_REASON_TIMEOUT_INFERENCE
        found.append(Finding("timeouts", reason, text, now.policy_ms, bounds.step_budget_ms, "hold", overrides=True))
    age_s = now.snapshot_age_s
    if age_s is None or age_s > bounds.urza_age_s:
        heard = "has never been heard" if age_s is None else f"was last heard {age_s:.0f} s ago"
        text, reason = f"Urza {heard}; what is known of its blueprints may be wrong.", leyline.RISK_REASON_TIMEOUT_URZA
        found.append(Finding("timeouts", reason, text, age_s, bounds.urza_age_s, "hold", grave=True))
    return found


def blueprint_risk(action: Action, now: Situation) -> list[Finding]:
    """Hold what the library refuses or calls too risky, soften what is doubtful."""
    if not action.grows:
        return []
    if now.card is None:
        text, reason = f"Urza has no blueprint {action.blueprint_id!r}.", leyline.RISK_REASON_DEGRADED_INPUTS
        return [Finding("blueprint_risk", reason, text, effect="hold")]
    if now.card.refusal:
        reason = leyline.RISK_REASON_BP_QUARANTINE
        return [Finding("blueprint_risk", reason, now.card.refusal, effect="hold", grave=True)]
    risk, bounds = now.card.risk, now.thresholds
    if risk <= bounds.blueprint_soft:
        return []
    hard = risk >= bounds.blueprint_hard
    bound = bounds.blueprint_hard if hard else bounds.blueprint_soft
    text = f"{action.blueprint_id} has a risk of {risk:.2f}."
    reason = leyline.RISK_REASON_BLUEPRINT_RISK
    return [Finding("blueprint_risk", reason, text, risk, bound, "hold" if hard else "soften")]


def bsds(action: Action, now: Situation) -> list[Finding]:
    """Follow the safety data sheet: quarantine and CRITICAL hold, HIGH softens."""
    sheet = now.card.sheet if now.card is not None else None
    if not action.grows or sheet is None:
        return []
    found, name = [], f"The safety data sheet of {action.blueprint_id}"
    if sheet.handling_class == leyline.HANDLING_CLASS_QUARANTINE:
        reason = leyline.RISK_REASON_BSDS_HANDLING_QUARANTINE
        found.append(Finding("bsds", reason, f"{name} demands quarantine.", effect="hold", grave=True))
    band = sheet.hazard_band
    if band == leyline.HAZARD_BAND_CRITICAL:
        reason = leyline.RISK_REASON_BSDS_HAZARD_CRITICAL
        found.append(Finding("bsds", reason, f"{name} says CRITICAL.", band, band, "hold", grave=True))
    elif band == leyline.HAZARD_BAND_HIGH:
        reason = leyline.RISK_REASON_BSDS_HAZARD_HIGH
        found.append(Finding("bsds", reason, f"{name} says HIGH.", band, band, "soften"))
    return found
