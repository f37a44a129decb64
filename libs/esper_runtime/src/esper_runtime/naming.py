"""Stable names for tensors, and stable paths to submodules, however many grafts stand in between.

A host's tensor keeps the name that it had in the bare model. A seed's tensor is called `seed:<seed_id>:<name>`, from
germination on and for good: fossilising a seed changes the owner of its parameters, never their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from esper_runtime.graft import Graft


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A parameter or buffer under its stable name; `seed_id` is None where it is the bare host's."""

    name: str
    tensor: Tensor
    seed_id: str | None


def seed_tensor_name(seed_id: str, name: str) -> str:
    """Return the stable name of a seed's own tensor."""
    return f"seed:{seed_id}:{name}"


def named_parameters(model: nn.Module) -> Iterator[NamedTensor]:
    """Walk the parameters under their stable names, each shared one once, under its first name."""
    seen: set[int] = set()
    for found in _walk(model, "", "_parameters"):
        if id(found.tensor) not in seen:
            seen.add(id(found.tensor))
            yield found


def named_buffers(model: nn.Module) -> Iterator[NamedTensor]:
    """Walk the buffers, also the non-persistent ones, under their stable names; the grafts' own alphas are left out."""
    seen: set[int] = set()
    for found in _walk(model, "", "_buffers"):
        if id(found.tensor) not in seen:
            seen.add(id(found.tensor))
            yield found


def _walk(module: nn.Module, prefix: str, table: str) -> Iterator[NamedTensor]:
    if isinstance(module, Graft):
        yield from _walk(module.host, prefix, table)
        yield from _seed_tensors(module, table)
        return
    for name, tensor in getattr(module, table).items():
        if tensor is not None:
            yield NamedTensor(prefix + name, tensor, None)
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}{name}.", table)


def _seed_tensors(graft: Graft, table: str) -> Iterator[NamedTensor]:
    walk = graft.seed.named_parameters() if table == "_parameters" else graft.seed.named_buffers()
    for name, tensor in walk:
        yield NamedTensor(seed_tensor_name(graft.seed_id, name), tensor, graft.seed_id)


def innermost(module: nn.Module) -> nn.Module:
    """Return the host's own module below any grafts."""
    while isinstance(module, Graft):
        module = module.host
    return module


def parent_of(model: nn.Module, module_path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the last part of a path, and that part, looking through grafts.

    Raises
    ------
    AttributeError
        If the path does not exist.
    """
    *parents, leaf = module_path.split(".")
    module = innermost(model)
    for part in parents:
        module = innermost(module.get_submodule(part))
    module.get_submodule(leaf)
    return module, leaf


def grafts_at(model: nn.Module, module_path: str) -> list[Graft]:
    """Return the grafts stacked at a path, innermost first."""
    parent, leaf = parent_of(model, module_path)
    module = parent.get_submodule(leaf)
    stack: list[Graft] = []
    while isinstance(module, Graft):
        stack.append(module)
        module = module.host
    return stack[::-1]
