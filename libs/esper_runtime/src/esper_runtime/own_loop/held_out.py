"""The data on which seeds are judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from esper_core.errors import ValidationError
from esper_runtime.counterfactual import PerExampleLoss, held_out_loss
from esper_runtime.undisturbed import preserved_random_state


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Batches that are never trained on, and how to score them.

    Parameters
    ----------
    batches : Iterable
        The same batches each time it is walked, such as a list; a few hundred examples are enough to tell most seeds.
    loss : callable
        `loss(model, batch)` runs the model on one batch and answers with the loss of each example, shape (B,).
    """

    batches: Iterable[Any]
    loss: PerExampleLoss

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator):
            raise ValidationError(
                "The held-out batches can be walked only once; give them as a list.",
                field="held_out.batches",
                allowed="a list or another collection that can be walked again",
            )

    def first(self) -> Any:
        """Return the first batch.

        Raises
        ------
        ValidationError
            If there is none.
        """
        with preserved_random_state():
            for batch in self.batches:
                return batch
        raise ValidationError("There are no held-out batches.", field="held_out.batches", allowed="at least one batch")

    def mean(self, model: nn.Module) -> float:
        """Return the mean loss of a model over all examples, leaving the model as it was."""
        return held_out_loss(model, self.batches, self.loss)
