"""Keep the host still while a seed learns, and let go of it exactly as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class Freeze:
    """Parameters and running statistics that are held still.

    Frozen parameters ask for no gradient and hold none, so that no optimizer touches them. Batch norms keep normalising
    with the batch's own statistics, as the host was trained, but leave their running ones alone; this survives
    `model.train()`. Dropout stays as it is. `apply` may be called again with another set; whatever is no longer in it
    gets back exactly the flag that it had.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._norms: dict[int, tuple[nn.Module, bool, float | None]] = {}

    def apply(self, parameters: Mapping[str, Parameter], modules: Iterable[nn.Module]) -> None:
        """Hold exactly these parameters and the statistics of these modules still."""
        for name in [name for name, held in self._parameters.items() if parameters.get(name) is not held]:
            self._parameters.pop(name).requires_grad_(True)
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad = None
                self._parameters[name] = parameter
        self._hold_norms({id(module): module for module in modules if keeps_statistics(module)})

    def release(self) -> None:
        """Give everything back."""
        self.apply({}, ())

    def baseline(self, name: str, parameter: Parameter) -> bool:
        """Return whether a parameter asks for a gradient when nothing is frozen."""
        return parameter.requires_grad or self._parameters.get(name) is parameter

    def _hold_norms(self, wanted: Mapping[int, nn.Module]) -> None:
        for key in [key for key in self._norms if key not in wanted]:
            module, tracks, momentum = self._norms.pop(key)
            module.track_running_stats, module.momentum = tracks, momentum  # type: ignore[assignment]
        for key, module in wanted.items():
            if key not in self._norms and module.track_running_stats:
                self._norms[key] = (module, True, module.momentum)  # type: ignore[assignment]
                _hold_norm(module)


def keeps_statistics(module: nn.Module) -> bool:
    """Say whether a module is a norm with running statistics, which a freeze holds still."""
    return isinstance(module, _BatchNorm | _InstanceNorm)


def _hold_norm(module: nn.Module) -> None:
    if isinstance(module, _BatchNorm):
        # In training this reads the batch's statistics and writes none; in evaluation the running ones are still read.
        module.track_running_stats = False
    else:
        module.momentum = 0.0  # type: ignore[assignment]


@contextmanager
def frozen(parameters: Mapping[str, Parameter], modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold parameters and statistics still for a block, without touching gradients that are already there."""
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    hold = Freeze()
    hold.apply(parameters, modules)
    try:
        yield
    finally:
        hold.release()
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
