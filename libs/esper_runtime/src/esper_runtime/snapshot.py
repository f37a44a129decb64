"""Snapshots of a run in memory: topology first, then tensors, optimizer, random state and data cursor, all by name."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_core.blueprints import KernelSpec
from esper_runtime.blueprints.registry import assemble
from esper_runtime.errors import TopologyMismatchError
from esper_runtime.host import Host
from esper_runtime.naming import NamedTensor, seed_tensor_name
from esper_runtime.optim import OptimizerState, capture_optimizer, check_optimizer, restore_optimizer
from esper_runtime.rebuild import rebuild
from esper_runtime.topology import Topology


@dataclass(frozen=True, slots=True)
class RandomState:
    """State of every generator in the process.

    Attributes
    ----------
    torch_cpu : Tensor
        Of torch's default generator.
    torch_cuda : tuple of Tensor
        Of each CUDA device in use.
    python, numpy : plain data
        Of `random` and of numpy's legacy generator.
    generators : Mapping[str, Tensor]
        Of generators that the caller named, such as a data loader's.
    """

    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    python: Any
    numpy: Any
    generators: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a run needs to go on from one step, bit for bit; it owns all its tensors.

    `scheduler` and `cursor` belong to the caller and must be plain JSON data.
    """

    step: int
    topology: Topology
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    optimizer: OptimizerState | None
    random: RandomState
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    cursor: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        moments = self.optimizer.tensors.values() if self.optimizer else ()
        tensors = [*self.parameters.values(), *self.buffers.values(), *(t for m in moments for t in m.values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def capture(
    host: Host,
    *,
    step: int,
    optimizer: Optimizer | None = None,
    scheduler: Mapping[str, Any] | None = None,
    cursor: Mapping[str, Any] | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> Snapshot:
    """Copy the whole state at a fence; later steps do not touch the copy.

    Raises
    ------
    TopologyMismatchError
        If other code has taken a graft out of the model, so that nothing could be restored from the copy.
    """
    for record in host.seeds():
        if not host.stands(record.seed_id):
            raise TopologyMismatchError(
                f"Seed {record.seed_id} is on record at site {record.site!r}, but other code has taken it out of the "
                "model. Leave grafted modules in place, or go back to a state before it was removed."
            )
    return Snapshot(
        step=step,
        topology=host.topology(),
        parameters={found.name: found.tensor.detach().clone() for found in host.named_parameters()},
        buffers={found.name: found.tensor.detach().clone() for found in host.named_buffers()},
        optimizer=None if optimizer is None else capture_optimizer(host, optimizer),
        random=capture_random(generators or {}),
        scheduler=dict(scheduler or {}),
        cursor=dict(cursor or {}),
    )


def restore(
    host: Host,
    snapshot: Snapshot,
    *,
    optimizer: Optimizer | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> None:
    """Make a host what it was: topology first, then tensors, optimizer and random state.

    Everything is checked before anything is changed. Parameters of the host stay the same objects, and pending
    gradients are dropped. The caller reads step, scheduler and cursor off the snapshot.

    Raises
    ------
    TopologyMismatchError
        If the snapshot belongs to another host, or a seed in it cannot be rebuilt.
    """
    _check_generators(snapshot.random, generators or {})
    seeds = _seeds_for(host, snapshot.topology)
    _check_tensors(host, snapshot, seeds)
    if optimizer is not None and snapshot.optimizer is not None:
        check_optimizer(snapshot.parameters, snapshot.optimizer, optimizer)
    rebuild(host, snapshot.topology, seeds)
    for found in host.named_parameters():
        found.tensor.grad = None
    _copy(host.named_parameters(), snapshot.parameters)
    _copy(host.named_buffers(), snapshot.buffers)
    if optimizer is not None and snapshot.optimizer is not None:
        restore_optimizer(host, optimizer, snapshot.optimizer)
    restore_random(snapshot.random, generators or {})


def capture_random(generators: Mapping[str, torch.Generator]) -> RandomState:
    """Copy the state of every generator in the process."""
    cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return RandomState(
        torch_cpu=torch.get_rng_state(),
        torch_cuda=cuda,
        python=[version, list(internal), gauss],
        numpy=[str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        generators={name: generator.get_state() for name, generator in generators.items()},
    )


def restore_random(state: RandomState, generators: Mapping[str, torch.Generator]) -> None:
    """Put back the state of every generator; a named one that the snapshot does not know is an error."""
    _check_generators(state, generators)
    torch.set_rng_state(state.torch_cpu)
    for index, cuda in enumerate(state.torch_cuda):
        torch.cuda.set_rng_state(cuda, index)
    version, internal, gauss = state.python
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state.numpy
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    for label, generator in generators.items():
        generator.set_state(state.generators[label])


def _check_generators(state: RandomState, generators: Mapping[str, torch.Generator]) -> None:
    unknown = sorted(set(generators) - set(state.generators))
    if unknown:
        raise TopologyMismatchError(f"The snapshot holds no state for the generators {', '.join(unknown)}.")


def _seeds_for(host: Host, topology: Topology) -> dict[str, nn.Module]:
    """Return the module of every seed in a topology: the living one where it is the same, else a new one."""
    living = {record.seed_id: record.kernel for record in host.seeds()}
    seeds: dict[str, nn.Module] = {}
    for record in topology.grafts:
        host.check_sites(record.site)
        if record.seed_id in living and living[record.seed_id] == record.kernel:
            seeds[record.seed_id] = host.graft(record.seed_id).seed
        else:
            seeds[record.seed_id] = _assembled(record.seed_id, record.kernel)
    return seeds


def _assembled(seed_id: str, kernel: KernelSpec | None) -> nn.Module:
    if kernel is None:
        raise TopologyMismatchError(
            f"Seed {seed_id} was not built from a blueprint and is no longer attached, so it cannot be rebuilt."
        )
    return assemble(kernel)


def _check_tensors(host: Host, snapshot: Snapshot, seeds: Mapping[str, nn.Module]) -> None:
    expected = {found.name: found.tensor for found in host.named_parameters() if found.seed_id is None}
    buffers = {found.name: found.tensor for found in host.named_buffers() if found.seed_id is None}
    for seed_id, seed in seeds.items():
        expected.update({seed_tensor_name(seed_id, name): tensor for name, tensor in seed.named_parameters()})
        buffers.update({seed_tensor_name(seed_id, name): tensor for name, tensor in seed.named_buffers()})
    _compare("parameters", expected, snapshot.parameters)
    _compare("buffers", buffers, snapshot.buffers)


def _compare(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    differing = sorted(set(expected) ^ set(found))
    if differing:
        raise TopologyMismatchError(f"Host and snapshot have different {what}: {', '.join(differing[:8])}.")
    for name, tensor in expected.items():
        saved = found[name]
        if (tensor.shape, tensor.dtype) != (saved.shape, saved.dtype):
            raise TopologyMismatchError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)} in the host "
                f"and {saved.dtype} {tuple(saved.shape)} in the snapshot."
            )


def _copy(targets: Any, sources: Mapping[str, Tensor]) -> None:
    found: NamedTensor
    with torch.no_grad():
        for found in targets:
            found.tensor.copy_(sources[found.name])
