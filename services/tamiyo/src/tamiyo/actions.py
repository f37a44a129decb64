"""What a policy may propose, as plain data. An action is replaced, never changed; the risk engine makes it safer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from esper_core import leyline
from esper_core.blueprints import ParameterValue

Kind = Literal["WAIT", "GERMINATE", "ADVANCE", "FOSSILIZE", "CULL", "OPTIMIZER", "PAUSE", "BREAKER"]
ACTION_IDS: Final[dict[Kind, int]] = {
    "WAIT": 0,
    "GERMINATE": 1,
    "ADVANCE": 2,
    "FOSSILIZE": 3,
    "CULL": 4,
    "OPTIMIZER": 5,
    "PAUSE": 6,
    "BREAKER": 7,
}
"""The action space; the numbers are recorded with every decision and never change their meaning."""

MAX_CANDIDATES: Final = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """One pair of site and blueprint that was weighed; a higher score is better."""

    site: str
    blueprint_id: str
    score: float
    reason: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    parameters_added: int = 0


@dataclass(frozen=True, slots=True)
class BlendPlan:
    """How a germinated seed is blended in; `ramp_steps` of 0 leave the length to Kasmina."""

    mode: int = leyline.BLEND_MODE_RESIDUAL
    schedule: int = leyline.ALPHA_SCHEDULE_LINEAR
    target_alpha: float = 1.0
    ramp_steps: int = 0


@dataclass(frozen=True, slots=True)
class Risk:
    """A policy's own estimate: expected class over 4, and the most likely class, 0 to 4."""

    score: float = 0.0
    index: int = 0

    @classmethod
    def of(cls, score: float) -> Risk:
        """Return the estimate of a policy that knows a score only."""
        bounded = min(1.0, max(0.0, score))
        return cls(bounded, round(4 * bounded))


@dataclass(frozen=True, slots=True)
class Action:
    """A proposal.

    Attributes
    ----------
    kind : Kind
        What to do.
    reason : str
        For WAIT a word for programs, such as `outside_growth_window`.
    rationale : str
        A sentence for people.
    seed_id, site, blueprint_id : str
        What it is about; empty where nothing is.
    candidates : tuple of Candidate
        What was weighed, best first.
    learning_rate_factor : float
        For OPTIMIZER.
    """

    kind: Kind
    reason: str
    rationale: str
    seed_id: str = ""
    site: str = ""
    blueprint_id: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    blend: BlendPlan = BlendPlan()
    candidates: tuple[Candidate, ...] = ()
    risk: Risk = Risk()
    learning_rate_factor: float = 1.0

    @property
    def waits(self) -> bool:
        """Whether nothing is to be done."""
        return self.kind == "WAIT"

    @property
    def grows(self) -> bool:
        """Whether it makes the network larger."""
        return self.kind == "GERMINATE"


def wait(reason: str, rationale: str, candidates: tuple[Candidate, ...] = ()) -> Action:
    """Return the action that does nothing, and says why."""
    return Action("WAIT", reason, rationale, candidates=candidates[:MAX_CANDIDATES])
