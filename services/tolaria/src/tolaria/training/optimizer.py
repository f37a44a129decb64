"""The optimizer of a run and read-only looks at it; groups of seeds come and go through `esper_runtime.optim`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from esper_core.errors import NotFoundError, ValidationError
from esper_runtime.host import Host
from esper_runtime.optim import SEED_KEY
from tolaria.training.plan import OPTIMIZERS, OptimizerPlan

HOST_GROUP: Final = "host"
BASE_LR: Final = "base_lr"


def build_optimizer(plan: OptimizerPlan, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer with one group, the host's.

    Parameters
    ----------
    plan : OptimizerPlan
        Name, base learning rate, weight decay, momentum.
    parameters : Sequence[nn.Parameter]
        The host's parameters.

    Raises
    ------
    ValidationError
        If the optimizer is unknown or a number is out of bounds.
    """
    _check(plan)
    group = {"params": list(parameters), "lr": plan.learning_rate, BASE_LR: plan.learning_rate}
    if plan.name == "sgd":
        return torch.optim.SGD(
            [group], lr=plan.learning_rate, weight_decay=plan.weight_decay, momentum=plan.momentum, fused=True
        )
    kind = torch.optim.Adam if plan.name == "adam" else torch.optim.AdamW
    return kind([group], lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)


def group_name(group: Mapping[str, Any]) -> str:
    """Return the name of a group: the seed's id, or "host"."""
    return str(group.get(SEED_KEY) or HOST_GROUP)


def group_view(optimizer: torch.optim.Optimizer, name: str) -> Mapping[str, Any]:
    """Return a group's settings, read-only and without its parameters.

    Raises
    ------
    NotFoundError
        If there is no such group.
    """
    for group in optimizer.param_groups:
        if group_name(group) == name:
            return MappingProxyType({key: value for key, value in group.items() if key != "params"})
    known = ", ".join(group_name(group) for group in optimizer.param_groups)
    raise NotFoundError(f"The optimizer has no group {name!r}; it has: {known}.")


def host_parameters(host: Host) -> list[nn.Parameter]:
    """Return the parameters of the bare host in their fixed order."""
    found = (item.tensor for item in host.named_parameters() if item.seed_id is None)
    return [tensor for tensor in found if isinstance(tensor, nn.Parameter)]


def all_parameters(optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
    """Return the parameters of every group."""
    groups = optimizer.param_groups
    if len(groups) == 1:  # Nearly always; its own list will do.
        return cast(Sequence[Tensor], groups[0]["params"])
    return [parameter for group in groups for parameter in group["params"]]


def gradient_norm(parameters: Iterable[Tensor]) -> float | None:
    """Return the L2 norm over all gradients, or None where there is none; a single number that is not finite shows."""
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if not gradients:
        return None
    norms = torch._foreach_norm(gradients)
    if gradients[0].is_cpu:
        # In one call: on the CPU putting single numbers together in Python is cheaper than by further operations.
        return math.hypot(*[norm.item() for norm in norms])
    # Elsewhere each number would wait for the device by itself.
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def forget_gradients(parameters: Iterable[Tensor]) -> None:
    """Drop the gradients: what an optimizer's `zero_grad` does by default, without its profiler record."""
    for parameter in parameters:
        parameter.grad = None


def update(optimizer: torch.optim.Optimizer) -> None:
    """Make an optimizer's step, without torch's profiler record around it where nobody reads one.

    The record is paid for whether a profiler runs or not: 12 µs a step, 70 with caches that a longer step left cold.
    """
    step: Any = type(optimizer).step
    if _only_recorded(optimizer, step):
        step.__wrapped__(optimizer)
    else:
        optimizer.step()


def _only_recorded(optimizer: torch.optim.Optimizer, step: Any) -> bool:
    """Say whether all that lies around a step is a record nobody reads: no hook, no profiler, no step of its own."""
    if not getattr(step, "hooked", False) or "step" in vars(optimizer) or torch._C._autograd._profiler_enabled():
        return False
    own_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return not (own_hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _check(plan: OptimizerPlan) -> None:
    if plan.name not in OPTIMIZERS:
        raise ValidationError(
            f"Optimizer {plan.name!r} does not exist.", field="spec.optimizer.name", allowed=OPTIMIZERS
        )
    bounds = (
        ("learning_rate", plan.learning_rate, plan.learning_rate > 0, "a number above 0"),
        ("weight_decay", plan.weight_decay, plan.weight_decay >= 0, "a number of at least 0"),
        ("momentum", plan.momentum, 0 <= plan.momentum < 1, "a number from 0, below 1"),
    )
    for field, value, holds, allowed in bounds:
        if not holds:
            raise ValidationError(
                f"The optimizer's {field} cannot be {value}.", field=f"spec.optimizer.{field}", allowed=allowed
            )
