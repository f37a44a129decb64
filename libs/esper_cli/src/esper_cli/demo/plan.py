"""What the demo trains: three arms at equal training FLOPs, the big one with its learning rate searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_cli.run_spec import RunOptions

TASK: Final = "letter"
SMALL: Final = "small static"
BIG: Final = "tuned big static"
GROWN: Final = "grown"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the demo may spend.

    Parameters
    ----------
    flops : int
        Training FLOPs of each run that counts.
    search_flops : int
        Training FLOPs of each run that only searches the big net's learning rate.
    learning_rates : tuple[float, ...]
        Learning rates that are tried on the big net.
    """

    flops: int
    search_flops: int
    learning_rates: tuple[float, ...]


FULL: Final = Budget(flops=14_000_000_000, search_flops=4_000_000_000, learning_rates=(5e-3, 1e-2, 2e-2, 4e-2))
SHORT: Final = Budget(flops=4_000_000_000, search_flops=1_500_000_000, learning_rates=(1e-2, 2e-2))


def search_runs(budget: Budget) -> dict[float, RunOptions]:
    """Return the runs that search the big net's learning rate, by learning rate; judged on validation data."""
    return {
        rate: RunOptions(
            task=TASK,
            policy="none",
            size="big",
            flops=budget.search_flops,
            learning_rate=rate,
            random_seed=10_000,
            label=f"search lr {rate:g}",
        )
        for rate in budget.learning_rates
    }


def arm_runs(budget: Budget, seed: int, big_learning_rate: float) -> dict[str, RunOptions]:
    """Return the three arms of one seed."""
    return {
        SMALL: RunOptions(
            task=TASK, policy="none", size="small", flops=budget.flops, random_seed=seed, label=f"{SMALL}, seed {seed}"
        ),
        BIG: RunOptions(
            task=TASK,
            policy="none",
            size="big",
            flops=budget.flops,
            learning_rate=big_learning_rate,
            random_seed=seed,
            label=f"{BIG}, seed {seed}",
        ),
        GROWN: RunOptions(
            task=TASK,
            policy="schedule",
            size="small",
            flops=budget.flops,
            random_seed=seed,
            label=f"{GROWN}, seed {seed}",
        ),
    }
