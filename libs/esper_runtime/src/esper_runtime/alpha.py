"""The ramp of alpha over optimizer steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from esper_core.blending.modes import ALPHA_SCHEDULES, COSINE, LINEAR
from esper_runtime.errors import BlendError

_SIGMOID_STEEPNESS: Final = 10.0


@dataclass(frozen=True, slots=True)
class AlphaRamp:
    """Alpha as a function of the optimizer step.

    Parameters
    ----------
    start_step : int
        Step at which alpha still has its initial value.
    end_step : int
        Step from which alpha has its target; not before `start_step`.
    target : float
        Final alpha, in [0, 1].
    initial : float
        Alpha up to `start_step`, in [0, 1].
    schedule : int
        A value of Leyline's AlphaSchedule.
    """

    start_step: int
    end_step: int
    target: float
    initial: float = 0.0
    schedule: int = LINEAR

    def __post_init__(self) -> None:
        if self.end_step < self.start_step:
            raise BlendError(
                f"The ramp ends at step {self.end_step}, before its start at {self.start_step}.",
                field="end_step",
                allowed=f"{self.start_step} or later",
            )
        for field in ("target", "initial"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise BlendError(f"Alpha {field} is out of bounds.", field=field, allowed="a number in [0, 1]")
        if self.schedule not in ALPHA_SCHEDULES:
            raise BlendError(
                f"Alpha schedule {self.schedule} does not exist.",
                field="schedule",
                allowed=list(ALPHA_SCHEDULES.values()),
            )

    def value(self, step: int) -> float:
        """Return alpha at an optimizer step; exact at both ends, monotone between them."""
        if step >= self.end_step:
            return self.target
        if step <= self.start_step:
            return self.initial
        done = (step - self.start_step) / (self.end_step - self.start_step)
        alpha = self.initial + (self.target - self.initial) * _curve(self.schedule, done)
        low, high = sorted((self.initial, self.target))
        return min(max(alpha, low), high)

    def finished(self, step: int) -> bool:
        """Say whether alpha has reached its target at this step."""
        return step >= self.end_step

    def delayed(self, steps: int) -> AlphaRamp:
        """Return the ramp moved later, for steps in which alpha was held."""
        return replace(self, start_step=self.start_step + steps, end_step=self.end_step + steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the ramp as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AlphaRamp:
        """Read a ramp written by `to_dict`."""
        return cls(**data)


def _curve(schedule: int, done: float) -> float:
    """Map progress in (0, 1) to progress of alpha in (0, 1)."""
    if schedule == LINEAR:
        return done
    if schedule == COSINE:
        return 0.5 - 0.5 * math.cos(math.pi * done)
    low, high = _logistic(0.0), _logistic(1.0)
    return (_logistic(done) - low) / (high - low)


def _logistic(done: float) -> float:
    return 1.0 / (1.0 + math.exp(-_SIGMOID_STEEPNESS * (done - 0.5)))
