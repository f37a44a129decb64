"""Wire seeds into a torch optimizer, and carry its state by parameter name.

The optimizer object stays the same; groups come and go with seeds. A seed's group is marked by the key `seed_id`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper_core.errors import AlreadyExistsError, ValidationError
from esper_runtime.errors import TopologyMismatchError
from esper_runtime.host import Host
from esper_runtime.ownership import seed_owner

SEED_KEY: Final = "seed_id"
Scalar = int | float | bool | str | None
_ELEMENTWISE: Final = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"})
"""State that has one entry per entry of its parameter; torch takes any shape here and fails, or worse, at a step."""


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """An optimizer's groups and state, keyed by stable parameter names.

    Attributes
    ----------
    groups : tuple of (names, options)
        Parameter names of each group in order, and every option of the group.
    tensors : Mapping[str, Mapping[str, Tensor]]
        State tensors (moments, step counters) by parameter name and key; copies of their own.
    scalars : Mapping[str, Mapping[str, Scalar]]
        State that is no tensor, likewise.
    """

    groups: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...]
    tensors: Mapping[str, Mapping[str, Tensor]]
    scalars: Mapping[str, Mapping[str, Scalar]]


def add_seed_group(host: Host, optimizer: Optimizer, seed_id: str) -> None:
    """Give a seed a group of its own with fresh moments and the options of the first group, learning rate included.

    Raises
    ------
    AlreadyExistsError
        If the seed already has a group.
    UnknownSeedError
        If no such seed is attached.
    """
    host.seed(seed_id)
    if any(group.get(SEED_KEY) == seed_id for group in optimizer.param_groups):
        raise AlreadyExistsError(f"Seed {seed_id} already has an optimizer group.")
    reference = optimizer.param_groups[0]
    options = {key: copy.copy(value) for key, value in reference.items() if key not in ("params", SEED_KEY)}
    parameters = list(host.ownership.parameters(seed_owner(seed_id)).values())
    optimizer.add_param_group({**options, "params": parameters, SEED_KEY: seed_id})


def remove_seed_group(optimizer: Optimizer, seed_id: str) -> bool:
    """Drop a seed's group with its moments, before or after the seed is taken out; say whether there was one."""
    leaving = [group for group in optimizer.param_groups if group.get(SEED_KEY) == seed_id]
    for group in leaving:
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group.get(SEED_KEY) != seed_id]
    return bool(leaving)


def capture_optimizer(host: Host, optimizer: Optimizer) -> OptimizerState:
    """Copy an optimizer's groups and state under the parameters' stable names.

    Raises
    ------
    TopologyMismatchError
        If the optimizer holds a parameter that is not in the model.
    """
    names = {id(found.tensor): found.name for found in host.named_parameters()}
    groups = tuple(
        (tuple(_name(names, parameter) for parameter in group["params"]), _options(group))
        for group in optimizer.param_groups
    )
    tensors: dict[str, dict[str, Tensor]] = {}
    scalars: dict[str, dict[str, Scalar]] = {}
    for parameter, state in optimizer.state.items():
        name = _name(names, parameter)
        tensors[name] = {key: value.detach().clone() for key, value in state.items() if isinstance(value, Tensor)}
        scalars[name] = {key: _scalar(key, value) for key, value in state.items() if not isinstance(value, Tensor)}
    return OptimizerState(groups, tensors, scalars)


def check_optimizer(parameters: Mapping[str, Tensor], saved: OptimizerState, optimizer: Optimizer) -> None:
    """Refuse a saved state that does not fit these parameters or this kind of optimizer; nothing is changed.

    Raises
    ------
    TopologyMismatchError
        Naming what is missing, what has another shape, or which settings another kind of optimizer would need.
    """
    named = [name for group, _ in saved.groups for name in group]
    _refuse("names parameters that do not exist", ({*named} | {*saved.tensors}) - {*parameters})
    _refuse("has parameters in more than one group", {name for name in named if named.count(name) > 1})
    _refuse("has moments of another shape for", _misshapen(parameters, saved))
    for _, options in saved.groups:
        _refuse(f"is of another kind than {type(optimizer).__name__}: it lacks", {*optimizer.defaults} - {*options})


def _refuse(what: str, names: set[str]) -> None:
    if names:
        raise TopologyMismatchError(f"The saved optimizer {what}: {', '.join(sorted(names))}.")


def _misshapen(parameters: Mapping[str, Tensor], saved: OptimizerState) -> set[str]:
    return {
        f"{name} ({key})"
        for name, tensors in saved.tensors.items()
        for key in _ELEMENTWISE & tensors.keys()
        if tensors[key].shape != parameters[name].shape
    }


def restore_optimizer(host: Host, optimizer: Optimizer, saved: OptimizerState) -> None:
    """Put groups, options and state back by parameter name; the optimizer object stays the same.

    Raises
    ------
    TopologyMismatchError
        If the saved state does not fit; the optimizer is untouched then.
    """
    parameters = {found.name: found.tensor for found in host.named_parameters()}
    check_optimizer(parameters, saved, optimizer)
    optimizer.param_groups[:] = [
        {"params": [parameters[name] for name in group], **copy.deepcopy(dict(options))}
        for group, options in saved.groups
    ]
    before = dict(optimizer.state)
    optimizer.state.clear()
    for name, tensors in saved.tensors.items():
        parameter = parameters[name]
        held = before.get(parameter, {})
        state: dict[str, Any] = {key: _put(value, parameter, held.get(key)) for key, value in tensors.items()}
        optimizer.state[parameter] = {**state, **saved.scalars.get(name, {})}


def _put(value: Tensor, parameter: Tensor, held: object) -> Tensor:
    """Copy a saved tensor into the one that the optimizer holds where it fits, because new memory is slow to get."""
    wanted = value.device if value.dim() == 0 else parameter.device
    if isinstance(held, Tensor) and (held.shape, held.dtype, held.device) == (value.shape, value.dtype, wanted):
        return held.copy_(value)
    return _like(value, parameter)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    # Counters are scalars that torch keeps on the CPU unless the optimizer is capturable; moments sit with parameters.
    return value.detach().clone() if value.dim() == 0 else value.detach().to(parameter.device, copy=True)


def _name(names: Mapping[int, str], parameter: Tensor) -> str:
    if id(parameter) not in names:
        raise TopologyMismatchError(
            "The optimizer holds a parameter that is not in the model. Whoever takes a module out of the model must "
            "take its parameters out of the optimizer as well."
        )
    return names[id(parameter)]


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in group.items() if key != "params"}
    for key, value in options.items():
        if isinstance(value, Tensor):
            options[key] = float(value) if torch.is_floating_point(value) else int(value)
    return copy.deepcopy(options)


def _scalar(key: str, value: object) -> Scalar:
    if value is None or isinstance(value, int | float | bool | str):
        return value
    raise ValidationError(
        f"The optimizer keeps {type(value).__name__} under {key!r}, which cannot be saved by name.",
        field=f"optimizer.state.{key}",
        allowed="tensors, numbers, words or nothing",
    )
