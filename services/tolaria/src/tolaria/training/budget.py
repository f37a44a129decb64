"""What a run may spend: optimizer steps, epochs, training FLOPs, whichever is set; the first to run out ends it."""

from __future__ import annotations

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

    def allows(self, spent: Spent, next_flops: int) -> bool:
        """Say whether one more step of `next_flops` stays within every bound."""
        if self.max_steps and spent.steps >= self.max_steps:
            return False
        if self.max_epochs and spent.epochs >= self.max_epochs:
            return False
        return not self.flops or spent.flops + next_flops <= self.flops

    def fraction(self, spent: Spent, epoch_part: float = 0.0) -> float:
        """Return the spent share of the scarcest bound, 0 to 1; `epoch_part` is the done part of the epoch."""
        share = spent.steps / self.max_steps if self.max_steps else 0.0
        if self.max_epochs:
            share = max(share, (spent.epochs + epoch_part) / self.max_epochs)
        if self.flops:
            share = max(share, spent.flops / self.flops)
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
