"""What a training step and an inference cost, counted by torch on the real model, once per topology.

Counted are matrix products, convolutions and attention, forward and backward, and a teacher's forward pass; a frozen
host costs less, because its gradients are not computed. Optimizer arithmetic, validation passes and the final test are
not counted; counterfactual probes are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from esper_runtime.flops import count_flops
from esper_tasks import Batch, Task, mean_loss


@dataclass(frozen=True, slots=True)
class StepCost:
    """FLOPs of one optimizer step on a full batch, of its backward passes, and of the forward pass of one example."""

    step: int
    inference_per_example: int
    backward: int = 0


class FlopMeter:
    """Remembers the cost of every topology that was measured.

    Parameters
    ----------
    task : Task
        Gives the loss.
    sample : Batch
        Kept as `sample`: real examples, as many as go through the model at once, on the model's device.
    parts : int
        How many such passes make an optimizer step.
    """

    def __init__(self, task: Task, sample: Batch, parts: int = 1) -> None:
        self._task = task
        self.sample = sample
        self._parts = parts
        self._known: dict[str, StepCost] = {}

    def cost(self, key: str, model: nn.Module) -> StepCost:
        """Return the cost of a model, measured without a trace when the key is new."""
        if key not in self._known:
            count = count_flops(model, self.sample, backward=True, loss=self._loss)
            self._known[key] = StepCost(
                count.total * self._parts, count.forward // len(self.sample), count.backward * self._parts
            )
        return self._known[key]

    def teacher_cost(self, teacher_id: str, teacher: nn.Module) -> int:
        """Return what a step's forward passes of a teacher cost."""
        key = f"teacher {teacher_id}"
        if key not in self._known:
            forward = count_flops(teacher, self.sample.inputs).forward
            self._known[key] = StepCost(forward * self._parts, forward // len(self.sample))
        return self._known[key].step

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mean_loss(self._task, model(batch.inputs), batch.targets)
