"""What moves the result of growing: one thing changed at a time, on a few seeds, at one learning rate.

    python -m benchmarks.growth.levers letter --seeds 3

It is a way to find where to look, not a comparison: nothing is tuned. Every run is a line of
benchmarks/results/growth_levers.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks.growth.arms import GRAFTS, Arm, Decider, spec_of
from benchmarks.growth.cases import GFLOP
from benchmarks.growth.clock import StepClock
from benchmarks.growth.directors import Director, Plant, PlantingDirector
from benchmarks.growth.run import Course, Running, Trained, train
from benchmarks.report import FOLDER, describe_commit
from kasmina.dwell import DwellPolicy
from kasmina.rules import Rules
from tamiyo.evaluation import Rulebook
from tamiyo.policies import GrowthRules
from tolaria.training.orders import RateChange

RESULTS: Final = FOLDER / "results" / "growth_levers.jsonl"


@dataclass(frozen=True, slots=True)
class Lever:
    """One way to grow that differs from the shipped one in one thing.

    Attributes
    ----------
    decider : str
        "random" plants what `plants` says, the others are Tamiyo's policies.
    growth : GrowthRules
        Tamiyo's bounds.
    dwell : DwellPolicy
        Kasmina's dwells.
    seed_rate : float
        Learning rate of a seed over its host's.
    """

    name: str
    decider: Decider = "schedule"
    growth: GrowthRules = field(default_factory=GrowthRules)
    dwell: DwellPolicy = field(default_factory=DwellPolicy)
    plants: tuple[Plant, ...] = ()
    seed_rate: float = 1.0
    grafts: int = GRAFTS

    def course(self) -> Course:
        """Return what steers a run of it."""
        watch = _SeedRate(self.seed_rate) if self.seed_rate != 1.0 else None
        rules, book = replace(Rules(), dwell=self.dwell), replace(Rulebook(), growth=self.growth)
        if self.decider != "random":
            return Course(rules=rules, rulebook=book, watch=watch)

        def director(clock: StepClock, rulebook: Rulebook) -> Director:
            return PlantingDirector(clock, rulebook, self.plants, 0)

        return Course(director, rules, book, watch=watch)


@dataclass(slots=True)
class _SeedRate:
    """Sets the learning rate of every seed when it is attached."""

    factor: float
    _done: set[str] = field(default_factory=set)

    def __call__(self, running: Running) -> None:
        for entry in running.session.book.unsettled():
            if entry.seed_id not in self._done:
                self._done.add(entry.seed_id)
                running.parts.links.inbox.post(RateChange("lever", self.factor, entry.seed_id))


def _planted(name: str, *plants: Plant, **more: Any) -> Lever:
    return Lever(name, "random", plants=plants, grafts=max(GRAFTS, len(plants)), **more)


_RULES: Final = GrowthRules()
_TIMING: Final = (
    Lever("schedule"),
    Lever("schedule at 3 and 10 %", growth=replace(_RULES, fractions=(0.03, 0.10), window_start=0.02)),
    Lever("schedule at 20 and 40 %", growth=replace(_RULES, fractions=(0.2, 0.4))),
    Lever("schedule, four grafts", grafts=4),
    Lever("schedule, up to 4x per graft", growth=replace(_RULES, growth_max=4.0)),
    Lever("schedule, no isolation", dwell=DwellPolicy(training=0.0, training_min_steps=1)),
    Lever("schedule, seed rate x0.5", seed_rate=0.5),
    Lever("schedule, seed rate x0.25", seed_rate=0.25),
    Lever("schedule, seed rate x2", seed_rate=2.0),
    Lever("heuristic", "heuristic"),
    Lever("heuristic, window of 5 %", "heuristic", replace(_RULES, flat_window=0.05)),
    Lever("heuristic, window of 5 %, three grafts", "heuristic", replace(_RULES, flat_window=0.05), grafts=3),
    Lever("heuristic, three grafts", "heuristic", grafts=3),
    Lever("heuristic, flat below 10 %", "heuristic", replace(_RULES, flat_gain=0.1)),
    Lever("heuristic, flat below 20 %", "heuristic", replace(_RULES, flat_gain=0.2)),
    Lever("heuristic, flat below 20 %, four grafts", "heuristic", replace(_RULES, flat_gain=0.2), grafts=4),
    Lever("heuristic, always flat", "heuristic", replace(_RULES, flat_gain=10.0)),
)
_CONV: Final = "conv1d_residual.v1"
_MLP: Final = "mlp_residual.v1"
_WIDE: Final = "widen.v1"
_SITES: Final = (
    *(_planted(f"one conv at {site}", Plant(0.08, site, _CONV)) for site in ("conv1", "conv2", "conv3")),
    _planted("one mlp at pool", Plant(0.08, "pool", _MLP)),
    _planted("conv at conv1 and conv2", Plant(0.08, "conv1", _CONV), Plant(0.18, "conv2", _CONV)),
    _planted("conv at conv2 and conv3", Plant(0.08, "conv2", _CONV), Plant(0.18, "conv3", _CONV)),
)
_WIDENING: Final = (
    _planted("mlp at stem and hidden1", Plant(0.05, "stem", _MLP), Plant(0.15, "hidden1", _MLP)),
    _planted("widen hidden1, then readout", Plant(0.05, "hidden1", _WIDE), Plant(0.15, "readout", _WIDE)),
    _planted("widen readout, then hidden1", Plant(0.05, "readout", _WIDE), Plant(0.15, "hidden1", _WIDE)),
    _planted("widen hidden1 twice", Plant(0.05, "hidden1", _WIDE), Plant(0.15, "hidden1", _WIDE)),
    _planted("widen readout twice", Plant(0.05, "readout", _WIDE), Plant(0.15, "readout", _WIDE)),
    _planted(
        "widen hidden1 and readout, mlp at stem",
        Plant(0.05, "hidden1", _WIDE),
        Plant(0.12, "readout", _WIDE),
        Plant(0.2, "stem", _MLP),
    ),
)
LEVERS: Final = {
    "letter": (6 * GFLOP, 0.01, (*_TIMING, *_WIDENING)),
    "mnist1d": (30 * GFLOP, 0.01, (*_TIMING, *_SITES)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every lever of a task and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(LEVERS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--only", default="", help="only levers whose name contains this")
    parser.add_argument("--gflop", type=float, help="another budget")
    parser.add_argument("--rate", type=float, help="another learning rate")
    chosen = parser.parse_args(arguments)
    flops, rate, levers = LEVERS[chosen.task]
    flops, rate = round(chosen.gflop * GFLOP) if chosen.gflop else flops, chosen.rate or rate
    for lever in (lever for lever in levers if chosen.only in lever.name):
        runs = [_run(lever, chosen.task, flops, rate, seed) for seed in range(chosen.seeds)]
        _note(RESULTS, lever, chosen.task, flops, rate, runs)
        print(f"{fmean(run.score for run in runs):7.3f}  {lever.name}  {_grafts(runs)}", flush=True)
    return 0


def _run(lever: Lever, task: str, flops: int, rate: float, seed: int) -> Trained:
    spec = spec_of(Arm(lever.name, decider=lever.decider), task, flops, rate, seed)
    spec.growth.max_seeds = lever.grafts
    return train(spec, lever.course())


def _grafts(runs: Sequence[Trained]) -> str:
    seeds = runs[0].seeds
    told = (f"{one['site']} at {one['germinated_step'] / one['of_steps']:.0%} {one['stage'].lower()}" for one in seeds)
    return f"{runs[0].parameters_final} parameters; first run: {', '.join(told) or 'no graft'}"


def _note(path: Path, lever: Lever, task: str, flops: int, rate: float, runs: Sequence[Trained]) -> None:
    line = {
        "lever": lever.name,
        "task": task,
        "flops": flops,
        "learning_rate": rate,
        "scores": [run.score for run in runs],
        "parameters": [run.parameters_final for run in runs],
        "seeds": [run.seeds for run in runs],
        "commit": describe_commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
