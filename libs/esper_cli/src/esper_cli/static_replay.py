"""Did growing matter? A run's final topology, trained from scratch at equal FLOPs with its learning rate searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from esper_cli.run_client import RunClient, last_checkpoint, raise_unless_completed
from esper_cli.run_views import run_summary
from esper_core import leyline
from esper_core.errors import StateConflictError

RATES: Final = (2.5e-3, 5e-3, 1e-2, 2e-2)
SEARCH_SHARE: Final = 0.25
# Another than any seed that counts, so that the search does not see the order of the data that the comparison sees.
SEARCH_SEED: Final = 10_000
_KEPT: Final = (leyline.SEED_STAGE_FOSSILIZED, leyline.SEED_STAGE_TERMINATED)
Follow = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class StaticReplay:
    """What came out.

    Attributes
    ----------
    grown, static : Mapping
        Both runs as `esper run show --json` tells them.
    validation_losses : Mapping[float, float]
        Loss on validation data by learning rate, of the runs that searched.
    learning_rate : float
        The one with the lowest.
    """

    grown: Mapping[str, Any]
    static: Mapping[str, Any]
    validation_losses: Mapping[float, float]
    learning_rate: float

    @property
    def difference(self) -> float:
        """Test accuracy of the grown run less that of the static one, 0 to 1."""
        return float(self.grown["accuracy"]) - float(self.static["accuracy"])

    def claim(self) -> str:
        """Return what this shows, and nothing more."""
        points = 100 * self.difference
        better = (
            "as accurate as"
            if abs(points) < 0.005
            else f"{abs(points):.2f} points " + ("better than" if points > 0 else "worse than")
        )
        return (
            f"At equal training FLOPs the grown network is {better} the same network trained from scratch "
            f"(learning rate {self.learning_rate:g}, best of {len(self.validation_losses)}). "
            "That is one seed: an example, not a comparison."
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "claim": self.claim(),
            "difference": self.difference,
            "learning_rate": self.learning_rate,
            "learning_rate_search": {f"{rate:g}": loss for rate, loss in self.validation_losses.items()},
            "grown": dict(self.grown),
            "static": dict(self.static),
        }


def replay_static(runs: RunClient, run_id: str, rates: Sequence[float], follow: Follow) -> StaticReplay:
    """Train the final topology of a run from scratch.

    Parameters
    ----------
    runs : RunClient
        Where.
    run_id : str
        A completed run that kept at least one seed.
    rates : Sequence[float]
        Learning rates to try, each with a quarter of the FLOPs and another seed.
    follow : callable
        Takes the id of each run and what it is for, and returns when it has ended.

    Raises
    ------
    StateConflictError
        If the run is not complete, kept no seed, or measured no accuracy.
    RunFailedError, RunHaltedError
        If one of the new runs did not complete.
    """
    grown = runs.status(run_id)
    _check(grown)
    start_from = last_checkpoint(runs, run_id, "its topology cannot be read")

    def trained(rate: float, flops: int, seed: int, label: str) -> leyline.RunStatus:
        submitted = runs.submit(_spec(grown, start_from, rate, flops, seed, label))
        follow(submitted.training_run_id, label)
        status = runs.status(submitted.training_run_id)
        raise_unless_completed(status)
        return status

    flops = grown.result.flops
    part = int(SEARCH_SHARE * flops)
    tried = {rate: trained(rate, part, SEARCH_SEED, f"try learning rate {rate:g}") for rate in rates}
    losses = {rate: status.progress.validation_loss for rate, status in tried.items()}
    best = min(losses, key=lambda rate: losses[rate])
    static = trained(best, flops, grown.spec.random_seed, f"static replay of {run_id}")
    return StaticReplay(run_summary(grown), run_summary(static), losses, best)


def _check(grown: leyline.RunStatus) -> None:
    run_id = grown.training_run_id
    if grown.state != leyline.RUN_STATE_COMPLETED:
        raise StateConflictError(f"Run {run_id} is not complete. Wait until it is: `esper run watch {run_id}`.")
    if not any(seed.stage in _KEPT for seed in grown.seeds):
        raise StateConflictError(f"Run {run_id} kept no seed, so that its final network is the one it began with.")
    if not grown.result.accuracy_measured:
        raise StateConflictError(f"Run {run_id} measured no accuracy, so that nothing can be compared with it.")


def _spec(grown: leyline.RunStatus, start_from: str, rate: float, flops: int, seed: int, label: str) -> leyline.RunSpec:
    spec = leyline.RunSpec()
    spec.CopyFrom(grown.spec)
    for field in ("growth", "max_steps", "max_epochs"):
        spec.ClearField(field)
    spec.growth.policy = "none"
    spec.start_from, spec.topology_only = start_from, True
    spec.flops_budget, spec.random_seed, spec.label = flops, seed, label
    spec.optimizer.learning_rate = rate
    return spec
