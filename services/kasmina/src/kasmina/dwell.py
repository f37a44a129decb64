"""How long a seed stays in each stage, in optimizer steps, scaled to the length of its run."""

from __future__ import annotations

from dataclasses import dataclass

from kasmina.lifecycle import BLENDING, GERMINATED, PROBATIONARY, SHADOWING, TRAINING


@dataclass(frozen=True, slots=True)
class DwellPolicy:
    """Fractions of the run's planned steps, with a floor in steps.

    Attributes
    ----------
    training, blending, shadowing, probationary : float
        Fraction of the planned steps spent at least in that stage; for BLENDING the length of the ramp.
    training_min_steps, blending_min_steps, shadowing_min_steps, probationary_min_steps : int
        Floors for short runs.
    germinated_steps : int
        Steps in GERMINATED, whatever the length of the run.
    patience : float
        A stage that waits for evidence gives up after this many times its dwell.
    """

    training: float = 0.02
    blending: float = 0.05
    shadowing: float = 0.02
    probationary: float = 0.03
    germinated_steps: int = 1
    training_min_steps: int = 10
    blending_min_steps: int = 10
    shadowing_min_steps: int = 5
    probationary_min_steps: int = 5
    patience: float = 5.0

    def steps(self, stage: int, total_steps: int) -> int:
        """Return the least number of steps in a stage; 0 for a stage without a dwell."""
        if stage == GERMINATED:
            return self.germinated_steps
        shares = {
            TRAINING: (self.training, self.training_min_steps),
            BLENDING: (self.blending, self.blending_min_steps),
            SHADOWING: (self.shadowing, self.shadowing_min_steps),
            PROBATIONARY: (self.probationary, self.probationary_min_steps),
        }
        fraction, floor = shares.get(stage, (0.0, 0))
        return max(floor, round(fraction * total_steps))

    def patience_steps(self, stage: int, total_steps: int) -> int:
        """Return the steps after which missing evidence counts as a failure."""
        return round(self.patience * self.steps(stage, total_steps))
