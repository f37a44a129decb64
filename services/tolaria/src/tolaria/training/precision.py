"""In which numbers the forward pass computes: autocast, and for float16 a scale that keeps small gradients alive.

Weights, gradients and moments stay in float32, and so does the loss. A loss scale that is too high makes gradients
overflow; then nothing is updated, the scale is lowered and the same batch comes again. Only what is not finite at a
scale of 1 is trouble of the training's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from esper_core.errors import ValidationError
from tolaria.training.plan import PRECISIONS

_KINDS: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """Autocast to one kind of number, with a gradient scaler where its range asks for one.

    Parameters
    ----------
    name : str
        One of `PRECISIONS` but float32.
    device : torch.device
        Where the model is.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._kind = _KINDS[name]
        self._device = device.type
        self._scaler = torch.amp.GradScaler(self._device) if name == "float16" else None

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs."""
        return torch.autocast(self._device, dtype=self._kind)

    @property
    def scale(self) -> float:
        """Factor on the loss of the coming backward pass; 1 where there is none."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times that factor."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by that factor, once per step and after its last backward pass."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def settle(self) -> None:
        """Let the scale follow what the gradients of this step were: up after many good ones, down after a bad one."""
        if self._scaler is not None:
            self._scaler.update()

    def overflowed(self) -> bool:
        """Lower the scale after gradients that are not finite; False where the scale cannot be to blame."""
        before = self.scale
        self.settle()
        return 1.0 < before != self.scale

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load(self, data: Mapping[str, Any]) -> None:
        """Go on with the scale that `to_dict` wrote, whatever step was broken off; without data begin anew."""
        if self._scaler is not None:
            self._scaler = torch.amp.GradScaler(self._device)
            if data:
                self._scaler.load_state_dict(dict(data))


def open_precision(name: str, device: torch.device) -> Precision | None:
    """Return the precision of a run, or None for float32.

    Raises
    ------
    ValidationError
        If there is no such precision, or the device does not compute in it.
    """
    if name not in PRECISIONS or not _computes(name, device):
        raise ValidationError(
            f"Training on {device} cannot be done in {name!r}.",
            field="spec.precision",
            allowed=tuple(known for known in PRECISIONS if _computes(known, device)),
        )
    return None if name == "float32" else Precision(name, device)


def _computes(name: str, device: torch.device) -> bool:
    """Try it: what a build of torch can do on a device is written down nowhere."""
    if name == "float32":
        return True
    if device.type == "cuda" and name == "bfloat16" and not torch.cuda.is_bf16_supported():
        return False
    weight = torch.ones(2, 2, device=device, requires_grad=True)
    try:
        with torch.autocast(device.type, dtype=_KINDS[name]):
            output = F.linear(weight, weight)
        output.float().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return output.dtype is _KINDS[name]
