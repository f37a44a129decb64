"""Filling in what a specification leaves to its task, after the task itself has been looked at."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.errors import UnavailableError
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
        self._opened: OrderedDict[bytes, asyncio.Task[Defaults]] = OrderedDict()

    async def complete(self, spec: leyline.RunSpec) -> leyline.RunSpec:
        """Check a specification against its task and return it with the defaults filled in.

        A caller that gives up leaves the check running, so that its next try finds the answer.

        Raises
        ------
        EsperError
            What keeps the task from being opened like this.
        UnavailableError
            If the service stops meanwhile.
        """
        shape = _shape(spec)
        opening = self._opened.get(shape)
        if opening is None:
            opening = self._opened[shape] = asyncio.create_task(self._open(spec), name=f"check {spec.task}")
            opening.add_done_callback(lambda task: self._forget(spec, shape, task))
        try:
            return with_defaults(spec, await asyncio.shield(opening))
        except asyncio.CancelledError:
            if not opening.cancelled():
                raise
            raise UnavailableError("Tolaria stops. Submit again with the same request_id when it is back.") from None

    async def close(self) -> None:
        """End the checks that still run."""
        running = [task for task in self._opened.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _open(self, spec: leyline.RunSpec) -> Defaults:
        request = {"spec": to_json(spec), "allow": self._allowed_tasks}
        return Defaults(**await self._chores.do("check", request))

    def _forget(self, spec: leyline.RunSpec, shape: bytes, task: asyncio.Task[Defaults]) -> None:
        """Keep only what cannot change: the code of an own task and the files of a checkpoint may, until next time."""
        from_files = ":" in spec.task or spec.start_from or spec.HasField("teacher")
        if task.cancelled() or task.exception() is not None or from_files:
            self._opened.pop(shape, None)
        while len(self._opened) > _REMEMBERED:
            self._opened.popitem(last=False)


def _shape(spec: leyline.RunSpec) -> bytes:
    """Return all of a specification on which it can depend whether its task opens."""
    shape = leyline.RunSpec(
        task=spec.task,
        parameters=sorted(spec.parameters, key=lambda parameter: parameter.name),
        batch_size=spec.batch_size,
        device=spec.device,
        start_from=spec.start_from,
        topology_only=spec.topology_only,
        growth=leyline.GrowthSpec(sites=spec.growth.sites),
        teacher=spec.teacher if spec.HasField("teacher") else None,
    )
    return shape.SerializeToString(deterministic=True)
