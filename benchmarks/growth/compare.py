"""Measuring a case: choose each arm's learning rate on random seeds of its own, then run all arms on the same seeds."""

from __future__ import annotations

import sys
from dataclasses import asdict
from statistics import fmean
from typing import Any, Final

from benchmarks.growth.arms import SMALL, Arm
from benchmarks.growth.cases import Case
from benchmarks.growth.run import Trained
from benchmarks.growth.shock import worst_shock
from benchmarks.growth.trained import Runs
from esper_core.errors import RunHaltedError
from esper_tasks import load_task

TUNING_SEEDS_FROM: Final = 1000
_HOPELESS: Final = 1e9


class Comparison:
    """A case under measurement.

    Parameters
    ----------
    case : Case
        What to measure.
    runs : Runs
        Makes the runs.
    """

    def __init__(self, case: Case, runs: Runs) -> None:
        self._case = case
        self._runs = runs
        self._task = load_task(case.task)
        self.lower_is_better = self._task.metric_name == "bits_per_character"
        self._host_rate = 0.0

    def measure(self) -> dict[str, Any]:
        """Tune, run, and return all figures as plain data."""
        case = self._case
        if case.warm:
            self._host_rate = self._tuned(SMALL, case.flops)[0]
        return {
            "task": case.task,
            "metric": "bits per character" if self.lower_is_better else "test accuracy, %",
            "lower_is_better": self.lower_is_better,
            "flops": case.arm_flops,
            "host": {"flops": case.flops, "learning_rate": self._host_rate} if case.warm else None,
            "seeds": case.seeds,
            "arms": {arm.name: self._arm(arm) for arm in case.arms},
        }

    def _arm(self, arm: Arm) -> dict[str, Any]:
        rate, tried = self._tuned(arm, self._case.arm_flops)
        runs = [self._run(arm, rate, seed) for seed in range(self._case.seeds)]
        _say(f"{self._case.name}: {arm.name} at {rate:g}: {', '.join(f'{run.score:.2f}' for run in runs)}")
        return {
            "learning_rate": rate,
            "tuning": tried,
            "runs": [{**_without_curve(run), "shock": worst_shock(run)} for run in runs],
        }

    def _tuned(self, arm: Arm, flops: int) -> tuple[float, dict[str, float]]:
        """Return the rate with the best validation score, and the scores of all."""
        case = self._case
        if not case.tuning_seeds:
            return (case.rates or {}).get(arm.name, self._task.default_spec().learning_rate), {}
        tried = {}
        for rate in case.grid or self._task.default_spec().learning_rate_grid:
            seeds = range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + case.tuning_seeds)
            tried[rate] = fmean(self._validation(arm, rate, seed, flops) for seed in seeds)
        best = (min if self.lower_is_better else max)(tried, key=lambda rate: tried[rate])
        return best, {f"{rate:g}": score for rate, score in tried.items()}

    def _validation(self, arm: Arm, rate: float, seed: int, flops: int) -> float:
        """Return the validation score at a rate; a rate at which the run is halted is never the best."""
        try:
            return self._run(arm, rate, seed, flops).validation
        except RunHaltedError as error:
            _say(f"{self._case.name}: {arm.name} at {rate:g}: {error.message}")
            return _HOPELESS if self.lower_is_better else 0.0

    def _run(self, arm: Arm, rate: float, seed: int, flops: int = 0) -> Trained:
        case = self._case
        host = self._runs.host(case.task, case.flops, self._host_rate, seed) if arm.warm else None
        return self._runs.run(arm, case.task, flops or case.arm_flops, rate, seed, host)


def _without_curve(run: Trained) -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if name != "curve"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
