"""Count floating-point operations with torch's own counter: matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from esper_runtime.sites import call_model
from esper_runtime.undisturbed import undisturbed


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


# torch counts fused attention on CUDA only; without these a model with attention would look cheaper on the CPU.
_CPU_ATTENTION: Final = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True, slots=True)
class FlopCount:
    """FLOPs of one batch; `backward` is 0 where only the forward pass was counted."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Forward and backward together."""
        return self.forward + self.backward


def count_flops(
    model: nn.Module,
    batch: Any,
    *,
    backward: bool = False,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
) -> FlopCount:
    """Count one batch through a model as it stands, leaving no trace in it.

    What is frozen costs no gradient, so that a host in isolation counts less than a host that learns.

    Parameters
    ----------
    model : nn.Module
        The model.
    batch : Any
        A tensor or tuple of positional arguments, or whatever `loss` takes.
    backward : bool
        Count the backward pass as well.
    loss : callable, optional
        Runs the model on the batch and answers with a scalar; the sum of the model's output when absent.
    """
    with undisturbed(model):
        with torch.set_grad_enabled(backward), _counter() as counter:
            value = loss(model, batch) if loss is not None else call_model(model, batch).sum()
        forward = counter.get_total_flops()
        return FlopCount(forward, _backward_flops(model, value) if backward else 0)


def _backward_flops(model: nn.Module, value: Tensor) -> int:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        return 0
    with _counter() as counter:
        torch.autograd.grad(value, learning, allow_unused=True)
    return int(counter.get_total_flops())


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=dict(_CPU_ATTENTION))
