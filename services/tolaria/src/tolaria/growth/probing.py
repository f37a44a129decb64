"""Counterfactual probes of seeds on held-out data, paid for from the run's own FLOP budget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper_runtime.counterfactual import probe
from esper_runtime.improvement import CurvePoint
from esper_runtime.undisturbed import undisturbed
from esper_tasks import Batch, widened
from tolaria.growth.book import Contribution
from tolaria.training.session import Session


class Prober:
    """Measures on the head of the task's probe split, which is neither trained on nor reported.

    Parameters
    ----------
    session : Session
        The run.
    examples : int
        How many held-out examples to use.
    """

    def __init__(self, session: Session, examples: int) -> None:
        self._session = session
        split = session.data.probe.head(examples)
        self._batch = Batch(split.inputs.to(session.device), split.targets.to(session.device))

    def contribution(self, seed_id: str) -> Contribution:
        """Measure one seed with and without; costs two forward passes, which are added to the spent FLOPs."""
        session = self._session
        with session.measuring():
            found = probe(session.host, seed_id, [self._batch], self._losses)
        session.counters.flops += 2 * self._pass_flops
        return Contribution(
            step=session.counters.step,
            loss_with=found.loss_with,
            loss_without=found.loss_without,
            mean=found.mean,
            low=found.low,
            high=found.high,
            examples=found.examples,
        )

    def point(self) -> CurvePoint:
        """Measure the held-out loss of the model as it is, as part of a validation pass; not counted as training."""
        model = self._session.host.model
        with torch.no_grad(), undisturbed(model), self._session.measuring():
            loss = float(self._losses(model, self._batch).double().mean())
        return CurvePoint(self._session.counters.step, loss)

    def loss(self) -> float:
        """Measure the held-out loss of the model as it stands; the FLOPs of the pass are added to those spent."""
        self._session.counters.flops += self._pass_flops
        return self.point().loss

    def affords(self, passes: int) -> bool:
        """Say whether the run's FLOP budget has room for some more forward passes over the probe split."""
        session = self._session
        limit = session.plan.budget.flops
        return not limit or session.counters.flops + passes * self._pass_flops <= limit

    @property
    def _pass_flops(self) -> int:
        return self._session.cost.inference_per_example * len(self._batch)

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._session.task.loss(widened(model(batch.inputs)), batch.targets)
