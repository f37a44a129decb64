"""The seed that is under way, and the stages that it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from esper_runtime import stages
from esper_runtime.counterfactual import Contribution
from esper_runtime.own_loop.history import What
from esper_runtime.snapshot import Snapshot

NEXT: Final[Mapping[int, int]] = {
    stages.TRAINING: stages.BLENDING,
    stages.BLENDING: stages.SHADOWING,
    stages.SHADOWING: stages.PROBATIONARY,
}
TOLD: Final[Mapping[int, tuple[What, str]]] = {
    stages.TRAINING: ("training", "It learns at half strength while the host is frozen."),
    stages.BLENDING: ("blending", "Its strength rises to full; the host learns again."),
    stages.SHADOWING: ("shadowing", "It stands at full strength and is measured."),
    stages.PROBATIONARY: ("probationary", "It must hold what it showed."),
}


@dataclass(frozen=True, slots=True)
class SeedLife:
    """The seed that is under way; replaced at every change.

    Attributes
    ----------
    before : Snapshot
        The state at the fence where it germinated, to which a cull returns.
    loss_before : float
        Held-out loss at that fence.
    probes : tuple of Contribution
        Counterfactuals at full alpha.
    rollbacks : int
        Rollbacks since it germinated.
    """

    seed_id: str
    stage: int
    stage_step: int
    before: Snapshot
    loss_before: float
    probes: tuple[Contribution, ...] = ()
    rollbacks: int = 0


def numbers_of(measured: Contribution) -> dict[str, float]:
    """Return what a counterfactual found, as an event tells it."""
    return {
        "contribution": measured.mean,
        "contribution_low": measured.low,
        "contribution_high": measured.high,
        "loss_with": measured.loss_with,
        "loss_without": measured.loss_without,
        "output_ratio": measured.output_ratio,
    }
