"""Building a task's bare model from plain data, as an exported model's record asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from esper_tasks.parameters import ParameterValue
from esper_tasks.registry import load_task


def build_host(task: str, seed: int, parameters: Mapping[str, ParameterValue]) -> nn.Module:
    """Return the model of a task as it was before anything grew in it; the same for the same arguments.

    A task of the reader's own, `module:function`, is imported: load only exports that you trust as much as that code.

    Parameters
    ----------
    task : str
        Name or reference of the task.
    seed : int
        Seed of the initialisation.
    parameters : Mapping
        Parameters of the model.
    """
    return load_task(task, allow=(task,)).build_model(seed, **parameters)
