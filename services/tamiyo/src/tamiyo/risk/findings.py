"""What the evaluators look at, what they say, and what they can do to an action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from tamiyo.actions import Action, wait
from tamiyo.catalogue import BlueprintCard
from tamiyo.conservative import Mode
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation
from tamiyo.risk.thresholds import RiskThresholds

Effect = Literal["note", "soften", "hold"]
"""`note` changes nothing; `soften` lengthens the blend; `hold` refuses to grow or to touch the optimizer."""

SOFTER_RAMP: Final = 1.5
LONGEST_RAMP: Final = 2.0


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that an evaluator may look at.

    Attributes
    ----------
    memory : RunMemory
        The run, the packet included.
    seen : Observation
        The packet.
    mode : Mode
        Conservative mode before this evaluation.
    card : BlueprintCard or None
        The blueprint that the proposal is about, where the library has it.
    snapshot_age_s : float or None
        Seconds since the library was in contact; None when it never was.
    policy_ms : float
        How long the policy took.
    ramp_steps : int
        Length of the blend ramp that applies where a proposal names none.
    """

    memory: RunMemory
    seen: Observation
    mode: Mode
    card: BlueprintCard | None
    snapshot_age_s: float | None
    policy_ms: float
    ramp_steps: int
    thresholds: RiskThresholds


@dataclass(frozen=True, slots=True)
class Finding:
    """What one evaluator found; `reason` is a value of `leyline.RiskReason`.

    Attributes
    ----------
    effect : Effect
        What it asks for; whether that changed anything is told by `changed`.
    grave : bool
        Whether the run must enter conservative mode.
    overrides : bool
        Whether its reason takes the place of an earlier one.
    """

    evaluator: str
    reason: int
    explanation: str
    observed: float | None = None
    threshold: float | None = None
    effect: Effect = "note"
    grave: bool = False
    overrides: bool = False
    changed: bool = False


Evaluator: TypeAlias = Callable[[Action, Situation], list[Finding]]
"""A pure function; it says what it found, and `apply` carries out what that asks for."""


def apply(action: Action, finding: Finding, situation: Situation) -> Action:
    """Return the action made safer, or the same object when the finding does not touch it.

    A held germination or optimizer change becomes a WAIT; settling commands are never held, because leaving an
    unproved seed in place is not the safer choice. A softened germination ramps up to twice as long.
    """
    if finding.effect == "hold" and action.kind in ("GERMINATE", "OPTIMIZER", "ADVANCE"):
        return replace(wait("risk_hold", finding.explanation, action.candidates), risk=action.risk)
    if finding.effect == "soften" and action.grows:
        return _softened(action, situation.ramp_steps)
    if finding.effect == "soften" and action.kind == "OPTIMIZER" and action.learning_rate_factor > 1.0:
        return replace(action, learning_rate_factor=1.0)
    return action


def _softened(action: Action, ramp_steps: int) -> Action:
    now = action.blend.ramp_steps or ramp_steps
    longer = min(round(SOFTER_RAMP * now), round(LONGEST_RAMP * ramp_steps))
    if longer <= now:
        return action
    return replace(action, blend=replace(action.blend, ramp_steps=longer))
