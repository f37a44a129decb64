"""Mean loss and metric of a model over a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_tasks.protocol import ClassificationTask, Task
from esper_tasks.sampling import Split

_HALVES: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Score:
    """Means over a split.

    Parameters
    ----------
    loss : float
        Mean loss per example, in nats for the built-in tasks.
    metric : float
        Mean of the task's metric.
    examples : int
        How many examples were scored.
    """

    loss: float
    metric: float
    examples: int


def mean_loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the scalar that training minimises, on the outputs' device: the mean of the task's losses per example."""
    if targets.device != outputs.device:
        targets = targets.to(outputs.device)
    if _is_cross_entropy(task):
        return F.cross_entropy(outputs, targets)  # The same gradients to the bit, with one operation less each way.
    return task.loss(outputs, targets).mean()


def widened(outputs: Tensor) -> Tensor:
    """Return outputs of half precision in float32, in which losses are computed, and others as they are."""
    return outputs.float() if outputs.dtype in _HALVES else outputs


def _is_cross_entropy(task: object) -> bool:
    return getattr(type(task), "loss", None) is ClassificationTask.loss


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, split: Split, batch_size: int = 1024) -> Score:
    """Score a model on a split in evaluation mode, on the model's device; its training mode is put back after."""
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    loss_sum = metric_sum = 0.0
    model.eval()
    try:
        for batch in split.batches(batch_size):
            targets = batch.targets.to(device)
            outputs = widened(model(batch.inputs.to(device)))
            loss_sum += float(task.loss(outputs, targets).double().sum())
            metric_sum += float(task.metric(outputs, targets).double().sum())
    finally:
        for module, training in modes.items():
            module.training = training
    return Score(loss=loss_sum / len(split), metric=metric_sum / len(split), examples=len(split))
