"""What is compared: tasks, budgets, arms, and how much of each in the full, the short and the quick form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.growth.arms import COLD, WARM, Arm

Form = Literal["full", "short", "quick"]
GFLOP: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes
    ----------
    name : str
        As it stands in the report.
    task : str
        Name of the task.
    flops : int
        Training FLOPs of every arm; of a warm case those of its host.
    arms : tuple of Arm
        What is compared.
    seeds, tuning_seeds : int
        Runs of each arm; runs of each arm and learning rate by which the rate is chosen, on other random seeds.
    rates : Mapping
        Learning rates by arm where none is tuned.
    grid : tuple of float
        Learning rates tried; empty takes the task's own.
    extra : float
        Warm cases: budget of the arms as a share of the host's.
    """

    name: str
    task: str
    flops: int
    arms: tuple[Arm, ...] = COLD
    seeds: int = 5
    tuning_seeds: int = 1
    rates: Mapping[str, float] | None = None
    grid: tuple[float, ...] = ()
    extra: float = 0.0

    @property
    def warm(self) -> bool:
        """Whether the arms begin with a trained host."""
        return self.extra > 0

    @property
    def arm_flops(self) -> int:
        """Training FLOPs of each arm."""
        return round(self.flops * self.extra) if self.warm else self.flops


LETTER: Final = Case("letter cold", "letter", 6 * GFLOP, tuning_seeds=3, grid=(5e-3, 1e-2, 2e-2, 4e-2, 8e-2))
"""With one tuning seed chance decides between 0.02 and 0.04; three are affordable here."""
FULL: Final[tuple[Case, ...]] = (
    LETTER,
    Case("mnist1d cold", "mnist1d", 30 * GFLOP),
    Case("mnist1d warm, 10 % extra", "mnist1d", 30 * GFLOP, WARM, extra=0.1),
    Case("mnist1d warm, 30 % extra", "mnist1d", 30 * GFLOP, WARM, extra=0.3),
    Case("kjv cold", "kjv", 500 * GFLOP),
)
RECORDED: Final = {
    "small": 0.02,
    "big": 0.02,
    "fixed schedule": 0.01,
    "controller": 0.02,
    "random with cull": 0.01,
}
"""Rates for Letter at 6 GFLOP for the forms that do not tune; see docs/notes/letter-sizing.md."""

SHORT: Final = (replace(LETTER, seeds=3, tuning_seeds=0, rates=RECORDED),)
QUICK: Final = (replace(LETTER, flops=GFLOP // 4, seeds=1, tuning_seeds=0, rates=RECORDED),)
FORMS: Final[Mapping[Form, tuple[Case, ...]]] = {"full": FULL, "short": SHORT, "quick": QUICK}
