"""The arms of a comparison, and the run that each of them is."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.growth.clock import StepClock
from benchmarks.growth.directors import Director, Plant, PlantingDirector
from benchmarks.growth.run import Course
from esper_core import leyline
from tamiyo.evaluation import Rulebook

Decider = Literal["none", "schedule", "heuristic", "random"]
GRAFTS: Final = 2
_WINDOW: Final = (0.05, 0.5)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to spend a budget.

    Attributes
    ----------
    name : str
        As it stands in the tables.
    size : str
        Size of the model that it begins with.
    decider : str
        Who decides about growing; "none" trains a static net.
    warm : bool
        Whether it begins with the weights of the case's host.
    """

    name: str
    size: str = "small"
    decider: Decider = "none"
    warm: bool = False


SMALL: Final = Arm("small")
BIG: Final = Arm("big", "big")
COLD: Final = (
    SMALL,
    BIG,
    Arm("fixed schedule", decider="schedule"),
    Arm("controller", decider="heuristic"),
    Arm("random with cull", decider="random"),
)
WARM: Final = (
    Arm("train-on", warm=True),
    Arm("restart-big", "big"),
    Arm("fixed schedule", decider="schedule", warm=True),
    Arm("controller", decider="heuristic", warm=True),
    Arm("random with cull", decider="random", warm=True),
)


def spec_of(arm: Arm, task: str, flops: int, rate: float, seed: int, start_from: Path | None = None) -> leyline.RunSpec:
    """Return the run of an arm as a user would submit it."""
    spec = leyline.RunSpec(
        version=1,
        task=task,
        flops_budget=flops,
        random_seed=seed,
        parameters=[leyline.TaskParameter(name="size", text=arm.size)],
        optimizer=leyline.OptimizerSpec(learning_rate=rate),
        start_from=str(start_from) if start_from and arm.warm else "",
    )
    if arm.decider != "none":
        # A run has to name a policy that exists; the die decides in its place.
        spec.growth.policy = "schedule" if arm.decider == "random" else arm.decider
        spec.growth.max_seeds = GRAFTS
    return spec


def course_of(arm: Arm, seed: int) -> Course:
    """Return what steers an arm."""
    if arm.decider != "random":
        return Course()
    die = random.Random(seed)
    plants = tuple(Plant(at) for at in sorted(die.uniform(*_WINDOW) for _ in range(GRAFTS)))

    def director(clock: StepClock, rules: Rulebook) -> Director:
        return PlantingDirector(clock, rules, plants, seed)

    return Course(director)


def by_name(arms: tuple[Arm, ...]) -> Mapping[str, Arm]:
    """Return arms by their names."""
    return {arm.name: arm for arm in arms}
