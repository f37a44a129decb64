"""How much of the movement of the loss each owner accounts for; negative numbers are improvements.

    approx   To first order, from training: for each step the product of an owner's gradient and of what the optimizer
             then did to its parameters, added up over all steps. It says what every step promised on its own batch; a
             rate at which curvature matters breaks the promise, and nothing here notices. A seed in shadow is measured
             by the loss of its own pass, and a teacher's loss is part of every loss. Gradients that were projected are
             no loss's gradients, so that approx is refused together with pcgrad; scales are divided out.
    probe    By going back, on held-out data: the loss of the model as it is, minus its loss with this owner's
             parameters put back to where the last reading found them. What owners did together is in none of these
             numbers or in several, so that they need not add up to the movement, which is told beside them. Costs two
             forward passes and one per owner and report, paid for from the FLOP budget as long as it has room, and the
             memory of a second set of parameters.

A third way, to let the data say which owner an example is for, is refused: the batches of a task carry no owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from esper_runtime.host import Host
from tolaria.aggregation.meters import Place, places_of

APPROX: Final = "approx"
PROBE: Final = "probe"


@dataclass(frozen=True, slots=True)
class Attributed:
    """What a report says about the movement of the loss.

    Attributes
    ----------
    owners : Mapping[str, float]
        Movement by owner, under the names of the ownership registry.
    movement : float or None
        The whole movement, where it was measured.
    """

    owners: Mapping[str, float]
    movement: float | None = None


class FirstOrder:
    """Follows the optimizer's steps and sums up what they promise, on the device.

    Parameters
    ----------
    host : Host
        The model with its seeds.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._generation = -1
        self._rollbacks = 0
        self._found: list[tuple[Place, nn.Parameter]] = []
        self._former: dict[Place, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def stepping(self, scales: Mapping[nn.Parameter, float], rollbacks: int) -> Iterator[None]:
        """Measure the update in the block.

        Parameters
        ----------
        scales : Mapping[nn.Parameter, float]
            Factors that some gradients were multiplied with.
        rollbacks : int
            Rollbacks of the run so far; what steps promised before one is forgotten.
        """
        if rollbacks != self._rollbacks:
            self._rollbacks, self._sums = rollbacks, {}
        moving = [(place, parameter) for place, parameter in self._present() if parameter.grad is not None]
        former = [self._former[place] for place, _ in moving]
        if moving:
            torch._foreach_copy_(former, [parameter.detach() for _, parameter in moving])
        yield
        for (place, parameter), before in zip(moving, former, strict=True):
            promised = _promised(parameter, before) / scales.get(parameter, 1.0)
            self._sums[place.owner] = self._sums[place.owner] + promised if place.owner in self._sums else promised

    def read(self) -> Attributed:
        """Return the sums and begin anew; waits for the device once."""
        figures = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        found = dict(zip(self._sums, figures, strict=True))
        self._sums = {}
        return Attributed(found)

    def _present(self) -> Sequence[tuple[Place, nn.Parameter]]:
        if self._generation != self._host.generation:
            self._generation = self._host.generation
            self._found = places_of(self._host)
            self._former = {place: torch.empty_like(parameter.detach()) for place, parameter in self._found}
        return self._found


class GoingBack:
    """Puts owners back to where the last reading found them, and measures what that does.

    Parameters
    ----------
    host : Host
        The model with its seeds.
    loss : callable
        Measures the held-out loss of the model as it stands.
    """

    def __init__(self, host: Host, loss: Callable[[], float]) -> None:
        self._host = host
        self._loss = loss
        self.forget()

    @property
    def passes(self) -> int:
        """Forward passes that a reading takes."""
        return 2 + len({place.owner for place, _ in places_of(self._host)})

    def read(self) -> Attributed:
        """Measure every owner that was there at the last reading, leave the model as it was, and begin anew."""
        owners: dict[str, list[tuple[nn.Parameter, Tensor]]] = {}
        for place, parameter in places_of(self._host):
            if place.name in self._former:
                owners.setdefault(place.owner, []).append((parameter, self._former[place.name]))
        now = self._loss()
        found = {owner: now - self._loss_with(moved) for owner, moved in owners.items()}
        whole = now - self._loss_with([pair for moved in owners.values() for pair in moved])
        self.forget()
        return Attributed(found, whole)

    def forget(self) -> None:
        """Begin anew from the parameters as they are, as after a rollback."""
        self._former = {place.name: parameter.detach().clone() for place, parameter in places_of(self._host)}

    def _loss_with(self, moved: Sequence[tuple[nn.Parameter, Tensor]]) -> float:
        kept = [parameter.detach().clone() for parameter, _ in moved]
        _put([parameter for parameter, _ in moved], [former for _, former in moved])
        try:
            return self._loss()
        finally:
            _put([parameter for parameter, _ in moved], kept)


def _promised(parameter: nn.Parameter, before: Tensor) -> Tensor:
    if parameter.grad is None:
        return before.new_zeros(())
    return ((parameter.detach() - before) * parameter.grad).sum()


@torch.no_grad()
def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
