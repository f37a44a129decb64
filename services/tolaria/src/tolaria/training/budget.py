"""What a run may spend: optimizer steps, epochs, training FLOPs, whichever is set; the first to run out ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from esper_core.errors import ValidationError


class Spent(NamedTuple):
    """What has been spent so far: steps, whole epochs, FLOPs."""

    steps: int
    epochs: int
    flops: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of a run; 0 means unbounded, at least one is set.

    Parameters
    ----------
    max_steps : int
        Optimizer steps.
    max_epochs : int
        Passes over the training split.
    flops : int
        Training FLOPs, counterfactual probes included.
    """

    max_steps: int = 0
    max_epochs: int = 0
    flops: int = 0

    def __post_init__(self) -> None:
        bounds = (self.max_steps, self.max_epochs, self.flops)
        if min(bounds) < 0 or not any(bounds):
            raise ValidationError(
                "A run needs an end: set max_steps, max_epochs or flops_budget.",
                field="spec.max_steps",
                allowed="at least one of max_steps, max_epochs and flops_budget above 0",
            )

    def most_steps(self, steps_per_epoch: int) -> float:
        """Return how many steps the bounds on steps and epochs allow; infinite where neither is set."""
        bounds = (self.max_steps, self.max_epochs * steps_per_epoch)
        return min((bound for bound in bounds if bound), default=math.inf)

    def affords(self, flops: int) -> bool:
        """Say whether the run may have spent so many FLOPs."""
        return not self.flops or flops <= self.flops

    def fraction(self, steps: int, flops: int, steps_per_epoch: int) -> float:
        """Return the spent share of the scarcest bound, 0 to 1; an epoch under way counts by its part."""
        share = steps / self.max_steps if self.max_steps else 0.0
        if self.max_epochs:
            epochs, begun = divmod(steps, steps_per_epoch)
            share = max(share, (epochs + begun / steps_per_epoch) / self.max_epochs)
        if self.flops:
            share = max(share, flops / self.flops)
        return min(1.0, share)

    def total_steps(self, spent: Spent, flops_per_step: int, steps_per_epoch: int) -> int:
        """Estimate the optimizer steps of the whole run from what a step costs now."""
        ends = []
        if self.max_steps:
            ends.append(self.max_steps)
        if self.max_epochs:
            ends.append(self.max_epochs * steps_per_epoch)
        if self.flops:
            left = max(0, self.flops - spent.flops)
            ends.append(spent.steps + left // max(1, flops_per_step))
        return min(ends)
