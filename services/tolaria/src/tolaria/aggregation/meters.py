"""Gradient norms by owner and layer, summed where the gradients are and read back once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_runtime.host import Host


class Place(NamedTuple):
    """A parameter under its owner; one that changes hands is counted for both, each for its time."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was summed up since the reading before.

    Attributes
    ----------
    squares : Mapping[Place, float]
        Sum over the steps of the squared L2 norm of each gradient.
    weights : Mapping[Place, float]
        Squared L2 norm of each parameter of the model as it is now.
    steps : int
        Steps that were looked at.
    """

    squares: Mapping[Place, float]
    weights: Mapping[Place, float]
    steps: int


@dataclass(slots=True)
class _Layout:
    """Where to find gradients and sums, in the order of the parameters; true for one generation."""

    generation: int = -1
    places: list[Place] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    kind: torch.dtype = torch.float32


class GradientMeters:
    """Sums up squared gradient norms without ever waiting for the device; `read` waits once.

    Parameters
    ----------
    host : Host
        The model with its seeds; its parameters are looked up anew in every generation.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._layout = _Layout()
        self._sums: dict[Place, Tensor] = {}
        self.steps = 0

    def observe(self) -> None:
        """Add the gradients that the parameters hold now."""
        layout = self._present()
        held = [(p.grad, total) for p, total in zip(layout.parameters, layout.sums, strict=True) if p.grad is not None]
        if held:
            norms = torch._foreach_norm([gradient for gradient, _ in held], 2, dtype=layout.kind)
            torch._foreach_addcmul_([total for _, total in held], norms, norms)
        self.steps += 1

    def read(self) -> Reading:
        """Return the sums and begin anew; the one moment at which the device is waited for."""
        layout, sums, steps = self._present(), self._sums, self.steps
        weights = torch._foreach_norm([parameter.detach() for parameter in layout.parameters], 2, dtype=layout.kind)
        figures = torch.stack([*sums.values(), *(norm.square() for norm in weights)]).tolist()
        self.forget()
        return Reading(
            squares=dict(zip(sums, figures, strict=False)),
            weights=dict(zip(layout.places, figures[len(sums) :], strict=True)),
            steps=steps,
        )

    def forget(self) -> None:
        """Begin anew, as after a rollback that undid what was summed up."""
        self._layout, self._sums, self.steps = _Layout(), {}, 0

    def _present(self) -> _Layout:
        if self._layout.generation != self._host.generation:
            self._layout = self._laid_out()
        return self._layout

    def _laid_out(self) -> _Layout:
        found = places_of(self._host)
        places, parameters = [place for place, _ in found], [parameter for _, parameter in found]
        kind = reduce(torch.promote_types, (parameter.dtype for parameter in parameters), torch.float32)
        for place, parameter in found:
            if place not in self._sums:
                self._sums[place] = torch.zeros((), dtype=kind, device=parameter.device)
        return _Layout(self._host.generation, places, parameters, [self._sums[place] for place in places], kind)


def places_of(host: Host) -> list[tuple[Place, nn.Parameter]]:
    """Return every parameter of a model with its place, in the order of the model."""
    registry = host.ownership
    owners = {name: owner for owner in registry.owners() for name in registry.parameters(owner)}
    found = ((Place(owners[item.name], item.name), item.tensor) for item in host.named_parameters())
    return [(place, tensor) for place, tensor in found if isinstance(tensor, nn.Parameter)]
