"""Tasks: a model that may grow and the real data it learns from; start reading in `protocol.py`."""

from esper_tasks.evaluation import Score, evaluate, mean_loss, widened
from esper_tasks.parameters import ChoiceParameter, FloatParameter, IntParameter, Parameter, ParameterValue
from esper_tasks.protocol import ClassificationTask, GrowthDefaults, GrowthStep, Task, TaskData, TaskSpec
from esper_tasks.registry import known_tasks, load_task
from esper_tasks.sampling import Batch, Cursor, EpochSampler, Split

__all__ = [
    "Batch",
    "ChoiceParameter",
    "ClassificationTask",
    "Cursor",
    "EpochSampler",
    "FloatParameter",
    "GrowthDefaults",
    "GrowthStep",
    "IntParameter",
    "Parameter",
    "ParameterValue",
    "Score",
    "Split",
    "Task",
    "TaskData",
    "TaskSpec",
    "evaluate",
    "known_tasks",
    "load_task",
    "mean_loss",
    "widened",
]
