"""What the demo trains: three arms at equal training FLOPs, the static ones with their learning rates searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from esper_cli.run_spec import RunOptions

TASK: Final = "letter"
SMALL: Final = "tuned small static"
BIG: Final = "tuned big static"
GROWN: Final = "grown"


SIZES: Final = {SMALL: "small", BIG: "big"}
# The same for every search, and another than any seed that counts.
SEARCH_SEED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the demo may spend.

    Parameters
    ----------
    flops : int
        Training FLOPs of each run that counts.
    grown_learning_rate : float
        Learning rate of the grown network; docs/notes/letter-sizing.md tells how it was chosen.
    search_flops : int
        Training FLOPs of each run that only searches a learning rate; 0 searches nothing.
    learning_rates : tuple[float, ...]
        Learning rates that are tried on each static network; the only one when nothing is searched.
    """

    flops: int
    grown_learning_rate: float
    search_flops: int
    learning_rates: tuple[float, ...]


FULL: Final = Budget(20_000_000_000, 2e-2, 5_000_000_000, (1e-2, 2e-2, 4e-2))
SHORT: Final = Budget(6_000_000_000, 2e-2, 0, (2e-2,))


@dataclass(frozen=True, slots=True)
class Search:
    """The learning rates that were tried on the static networks.

    Parameters
    ----------
    losses : Mapping[str, Mapping[float, float]]
        Validation loss by arm and learning rate; empty when nothing was searched.
    chosen : Mapping[str, float]
        Learning rate by arm.
    """

    losses: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    chosen: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def judged(cls, losses: Mapping[str, Mapping[float, float]]) -> Search:
        """Choose the learning rate with the lowest validation loss for each arm."""
        return cls(losses, {arm: min(tried, key=lambda rate: tried[rate]) for arm, tried in losses.items()})


def search_runs(budget: Budget) -> dict[tuple[str, float], RunOptions]:
    """Return the runs that search learning rates, by arm and rate; they are judged on validation data."""
    if not budget.search_flops:
        return {}
    return {
        (arm, rate): RunOptions(
            task=TASK,
            policy="none",
            size=size,
            flops=budget.search_flops,
            learning_rate=rate,
            random_seed=SEARCH_SEED,
            label=f"{arm}: try learning rate {rate:g}",
        )
        for arm, size in SIZES.items()
        for rate in budget.learning_rates
    }


def arm_runs(budget: Budget, seed: int, chosen: Mapping[str, float]) -> dict[str, RunOptions]:
    """Return the three arms of one seed.

    Parameters
    ----------
    budget : Budget
        What each of them may spend.
    seed : int
        Their common random seed.
    chosen : Mapping[str, float]
        Learning rates of the static arms.
    """
    static = {
        arm: RunOptions(
            task=TASK,
            policy="none",
            size=size,
            flops=budget.flops,
            learning_rate=chosen[arm],
            random_seed=seed,
            label=f"{arm}, seed {seed}",
        )
        for arm, size in SIZES.items()
    }
    grown = RunOptions(
        task=TASK,
        policy="schedule",
        size="small",
        flops=budget.flops,
        learning_rate=budget.grown_learning_rate,
        random_seed=seed,
        label=f"{GROWN}, seed {seed}",
    )
    return {**static, GROWN: grown}
