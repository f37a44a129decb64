"""The observation window of one command.

It begins with the step after the deciding one. It closes after its epochs; that of a germination stays open until its
seed is settled as well, at most for `max_epochs`, because before that nothing about its worth is known. A run that ends
by itself closes it early with what is known; a run that is halted, fails or falls silent makes the report ABORTED.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from esper_core import leyline
from tamiyo.observation import ENDED, KEPT, Observation, SeedView, Validation

Close = Literal["", "over", "run_ended", "run_broken", "no_seed"]
_GERMINATE: Final = leyline.SEED_OPERATION_GERMINATE


@dataclass(frozen=True, slots=True)
class WindowRules:
    """Lengths of windows; see the settings of the same names."""

    epochs: int = 2
    max_epochs: int = 40
    seed_patience_s: float = 30.0
    neutral_change: float = 0.02


@dataclass(frozen=True, slots=True)
class Opening:
    """What was known when the command left.

    Attributes
    ----------
    operation : int
        A value of `leyline.SeedOperation`, 0 for another kind of command.
    at_s : float
        Monotonic time.
    validation : Validation or None
        Last validation pass before.
    loss : float or None
        Smoothed training loss.
    """

    command_id: str
    run_id: str
    operation: int
    site: str
    blueprint_id: str
    seed_id: str
    step: int
    epoch: int
    at_s: float
    parameters: int
    flops_used: int
    validation: Validation | None
    loss: float | None
    policy_version: str
    risk_index: int
    risk_score: float
    evaluation_ms: float


@dataclass(slots=True)
class Window:
    """An open window and what was seen in it."""

    opening: Opening
    last: Observation | None = None
    seed: SeedView | None = None
    gone: bool = False
    validations: list[Validation] = field(default_factory=list)
    loss_min: float | None = None
    loss_max: float | None = None
    follow_ups: list[str] = field(default_factory=list)

    @property
    def seed_id(self) -> str:
        """The seed concerned; empty while none is known."""
        return self.seed.seed_id if self.seed is not None else self.opening.seed_id

    @property
    def kept(self) -> bool:
        """Whether the seed is part of the host, or was ordered to be and never seen to go."""
        if self.seed is None or self.gone:
            return False
        ordered = self.opening.operation == leyline.SEED_OPERATION_FOSSILIZE
        return ordered or self.seed.stage in KEPT or any(one.startswith("FOSSILIZE") for one in self.follow_ups)

    @property
    def settled(self) -> bool:
        """Whether the fate of the seed is known."""
        return self.gone or (self.seed is not None and not self.seed.unsettled)

    def observe(self, seen: Observation, now_s: float, rules: WindowRules) -> Close:
        """Take a packet and say whether the window closes with it."""
        if seen.step > self.opening.step:
            self._take(seen)
        if seen.run_state in ENDED:
            return "run_ended" if seen.run_state == leyline.RUN_STATE_COMPLETED else "run_broken"
        passed = seen.epoch - self.opening.epoch
        if self.opening.operation != _GERMINATE:
            return "over" if passed >= rules.epochs else ""
        if self.seed is None and now_s - self.opening.at_s > rules.seed_patience_s:
            return "no_seed"
        return "over" if (self.settled and passed >= rules.epochs) or passed >= rules.max_epochs else ""

    def _take(self, seen: Observation) -> None:
        self.last = seen
        if seen.validation is not None and seen.validation.step > self.opening.step:
            self.validations.append(seen.validation)
            del self.validations[:-256]
        loss = seen.figures.loss_ewma
        if loss is not None:
            self.loss_min = loss if self.loss_min is None else min(self.loss_min, loss)
            self.loss_max = loss if self.loss_max is None else max(self.loss_max, loss)
        self._take_seed(seen)

    def _take_seed(self, seen: Observation) -> None:
        found = seen.seed(self.seed_id) if self.seed_id else None
        if found is None and not self.seed_id:
            ours = (one for one in seen.seeds if one.germinate_command_id == self.opening.command_id)
            found = next(ours, None)
        if found is not None:
            known = self.seed
            self.seed = found
            if known is not None and found.contribution_low is None:
                # A closed seed carries no probe any more; its last one still tells what it was worth.
                self.seed = _with_contribution(found, known)
            self.gone = not found.unsettled and found.stage not in KEPT
        elif self.seed is not None and self.seed.unsettled:
            self.gone = True


def _with_contribution(seed: SeedView, known: SeedView) -> SeedView:
    return replace(
        seed,
        contribution=known.contribution,
        contribution_low=known.contribution_low,
        contribution_high=known.contribution_high,
    )
