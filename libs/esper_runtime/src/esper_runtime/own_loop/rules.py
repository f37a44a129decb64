"""The numbers of a session: how long stages last, and the bounds of the judge; Kasmina's where she has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from esper_core.errors import ValidationError
from esper_runtime import stages

SHARES: Final[Mapping[int, tuple[float, int]]] = {
    stages.TRAINING: (0.02, 10),
    stages.BLENDING: (0.05, 10),
    stages.SHADOWING: (0.02, 5),
    stages.PROBATIONARY: (0.03, 5),
}
"""Share of the budget that a seed spends in each stage, and the least number of steps; Kasmina's numbers."""

PULSE_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Pace:
    """Optimizer steps that a seed spends in each stage.

    Parameters
    ----------
    training, blending, shadowing, probationary : int
        Steps in that stage; for BLENDING the length of the linear ramp.
    pulse : int
        Steps between two looks at the held-out loss, which are also the moments at which a good state is kept.
    """

    training: int
    blending: int
    shadowing: int
    probationary: int
    pulse: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValidationError("A stage cannot have no steps.", field=f"pace.{name}", allowed="1 or more")

    @classmethod
    def of_budget(cls, steps: int) -> Pace:
        """Return the usual pace for a number of optimizer steps."""
        training, blending, shadowing, probationary = (
            max(least, round(share * steps)) for share, least in SHARES.values()
        )
        return cls(training, blending, shadowing, probationary, max(1, round(PULSE_SHARE * steps)))

    @property
    def life(self) -> int:
        """Steps from germination to the verdict."""
        return self.training + self.blending + self.shadowing + self.probationary

    def dwell(self, stage: int) -> int:
        """Return the steps in a stage."""
        return {
            stages.TRAINING: self.training,
            stages.BLENDING: self.blending,
            stages.SHADOWING: self.shadowing,
            stages.PROBATIONARY: self.probationary,
        }[stage]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the judge.

    Attributes
    ----------
    loss_ratio_max : float
        Safety: held-out loss over that before germination.
    output_ratio_max : float
        Safety: RMS of the change at the site over that of the host's output.
    probes_min : int
        Merit: paired counterfactuals that must have been made.
    contribution_low_min : float
        Merit: the lower end of the 95 % interval must lie above this.
    improvement_z : float
        Merit: standard errors below the extrapolated curve at which a shortfall counts.
    improvement_tolerance : float
        Merit: shortfall that is forgiven, as a fraction of the expected loss.
    """

    loss_ratio_max: float = 2.0
    output_ratio_max: float = 4.0
    probes_min: int = 2
    contribution_low_min: float = 0.0
    improvement_z: float = 1.96
    improvement_tolerance: float = 0.02


@dataclass(frozen=True, slots=True)
class Rules:
    """Pace and bounds together; `drill` lets a plan name the quarantined fixtures, to see what happens to harm."""

    pace: Pace
    limits: Limits = field(default_factory=Limits)
    drill: bool = False

    @classmethod
    def of_budget(cls, steps: int) -> Rules:
        """Return the usual rules for a number of optimizer steps."""
        return cls(Pace.of_budget(steps))
