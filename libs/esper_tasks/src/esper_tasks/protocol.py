"""What a task is: a model, its sites, real data, a loss and a metric.

Implement `Task` for a model of your own, or begin from `ClassificationTask`, which leaves only the model and the data
to write. Nothing here knows about services.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper_runtime.contracts import Site
from esper_runtime.own_loop import GrowthStep as GrowthStep  # noqa: PLC0414 (offered from here as well)
from esper_tasks.parameters import Parameter, ParameterValue
from esper_tasks.sampling import Cursor, EpochSampler, Split

MetricName = Literal["accuracy", "bits_per_character"]


@dataclass(frozen=True, slots=True)
class TaskData:
    """The data of one run.

    Parameters
    ----------
    train : Split
        What the optimizer sees.
    validation : Split
        For curves, plateau policies and the search of a learning rate.
    probe : Split
        Held out for counterfactual probes of seeds; never trained on, never reported as a result.
    test : Split
        Looked at once, at the end.
    seed : int
        Seed of the order in which `train` is handed out; the splits themselves don't depend on it.
    """

    train: Split
    validation: Split
    probe: Split
    test: Split
    seed: int

    def sampler(self, batch_size: int, cursor: Cursor | None = None) -> EpochSampler:
        """Return a sampler of the training split, at its beginning or at a cursor."""
        return EpochSampler(self.train, batch_size, self.seed, cursor)


@dataclass(frozen=True, slots=True)
class GrowthDefaults:
    """The plan that pays on this task, as measured; for the scheduled policy and as an allow-list for others."""

    steps: tuple[GrowthStep, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites of the plan, in its order, each once."""
        return tuple(dict.fromkeys(step.site for step in self.steps))

    @property
    def blueprint_ids(self) -> tuple[str, ...]:
        """Blueprints of the plan, in its order, each once."""
        return tuple(dict.fromkeys(step.blueprint_id for step in self.steps))

    @property
    def max_seeds(self) -> int:
        """Number of grafts in the plan."""
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a run of the task takes when its user says nothing.

    Parameters
    ----------
    batch_size : int
        Examples per step.
    optimizer : str
        Name of the optimizer.
    learning_rate : float
        Base learning rate of the small model.
    learning_rate_policy : str
        Policy over the budget.
    flops_budget : int
        Training FLOPs of a full run, 0 where epochs rule.
    short_flops_budget : int
        Training FLOPs of a run that only shows that everything works.
    max_epochs : int
        Epochs, 0 where FLOPs rule.
    sizes : Mapping[str, Mapping[str, ParameterValue]]
        Model parameters by size, at least `small` and `big`.
    learning_rate_grid : tuple[float, ...]
        Learning rates worth trying for a static model of any size.
    growth : GrowthDefaults
        Where growth pays.
    """

    batch_size: int
    optimizer: str
    learning_rate: float
    learning_rate_policy: str = "cosine"
    flops_budget: int = 0
    short_flops_budget: int = 0
    max_epochs: int = 0
    sizes: Mapping[str, Mapping[str, ParameterValue]] = field(default_factory=dict)
    learning_rate_grid: tuple[float, ...] = ()
    growth: GrowthDefaults = field(default_factory=GrowthDefaults)


@runtime_checkable
class Task(Protocol):
    """A model that may grow, with the data it learns from.

    Attributes
    ----------
    name : str
        Short name, used in run ids and labels.
    metric_name : MetricName
        What `metric` measures; accuracy is better when higher, bits per character when lower.
    attribution : str
        Where the data comes from and under which licence.
    """

    name: str
    metric_name: MetricName
    attribution: str

    def parameters(self) -> Sequence[Parameter]:
        """Return what `build_model` takes besides the seed."""
        ...

    def default_spec(self) -> TaskSpec:
        """Return what a run takes when its user says nothing."""
        ...

    def build_model(self, seed: int, **params: ParameterValue) -> nn.Module:
        """Return a freshly initialised model on the CPU, the same for the same arguments."""
        ...

    def sites(self, model: nn.Module) -> Sequence[Site]:
        """Return the sites where this model may grow."""
        ...

    def data(self, seed: int) -> TaskData:
        """Return the data; the seed rules the order of training examples only."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one loss per example, shape (B,); its mean is what training minimises."""
        ...

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one value per example, shape (B,); its mean over a split is the metric."""
        ...


class ClassificationTask:
    """A start for tasks with one class per example: cross-entropy, accuracy, no model parameters."""

    name: str = "unnamed"
    metric_name: MetricName = "accuracy"
    attribution: str = ""

    def parameters(self) -> Sequence[Parameter]:
        """Return no parameters."""
        return ()

    def default_spec(self) -> TaskSpec:
        """Return a modest default: Adam for ten epochs."""
        return TaskSpec(batch_size=128, optimizer="adam", learning_rate=3e-3, max_epochs=10)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in nats of each example; logits (B, C), classes (B,) → (B,)."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1.0 where the largest logit is the class, else 0.0; (B, C), (B,) → (B,)."""
        return (outputs.argmax(dim=-1) == targets).to(torch.float32)
