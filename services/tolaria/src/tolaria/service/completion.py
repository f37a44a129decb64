"""Filling in what a specification leaves to its task, after the task itself has been looked at."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from tolaria.rundir import to_json
from tolaria.service.chore_process import Chores

_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a task takes where a specification says nothing."""

    batch_size: int
    optimizer: str
    learning_rate: float
    max_epochs: int
    flops_budget: int


def with_defaults(spec: leyline.RunSpec, defaults: Defaults) -> leyline.RunSpec:
    """Return a copy in which budget, batch size and optimizer are those of the task where none were given."""
    full = leyline.RunSpec()
    full.CopyFrom(spec)
    if not (full.max_steps or full.max_epochs or full.flops_budget):
        full.max_epochs, full.flops_budget = defaults.max_epochs, defaults.flops_budget
    full.batch_size = full.batch_size or defaults.batch_size
    full.optimizer.name = full.optimizer.name or defaults.optimizer
    full.optimizer.learning_rate = full.optimizer.learning_rate or defaults.learning_rate
    return full


class Completion:
    """Completes specifications; a built-in task that was found good with the same shape is not opened again.

    Parameters
    ----------
    chores : Chores
        Opens tasks.
    allowed_tasks : Sequence of str
        The operator's own tasks.
    """

    def __init__(self, chores: Chores, allowed_tasks: Sequence[str]) -> None:
        self._chores = chores
        self._allowed_tasks = list(allowed_tasks)
        self._known: OrderedDict[bytes, Defaults] = OrderedDict()

    async def complete(self, spec: leyline.RunSpec) -> leyline.RunSpec:
        """Check a specification against its task and return it with the defaults filled in.

        Raises
        ------
        EsperError
            What keeps the task from being opened like this.
        """
        shape = _shape(spec)
        defaults = self._known.get(shape)
        if defaults is None:
            request = {"spec": to_json(spec), "allow": self._allowed_tasks}
            defaults = Defaults(**await self._chores.do("check", request))
            self._remember(spec, shape, defaults)
        return with_defaults(spec, defaults)

    def _remember(self, spec: leyline.RunSpec, shape: bytes, defaults: Defaults) -> None:
        if ":" in spec.task or spec.start_from:
            # The code of an own task and the files of a checkpoint may change between two submissions.
            return
        self._known[shape] = defaults
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _shape(spec: leyline.RunSpec) -> bytes:
    """Return all of a specification on which it can depend whether its task opens."""
    shape = leyline.RunSpec(
        task=spec.task,
        parameters=sorted(spec.parameters, key=lambda parameter: parameter.name),
        batch_size=spec.batch_size,
        device=spec.device,
        start_from=spec.start_from,
        growth=leyline.GrowthSpec(sites=spec.growth.sites),
    )
    return shape.SerializeToString(deterministic=True)
