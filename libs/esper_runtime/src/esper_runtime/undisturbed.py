"""Run a model without leaving a trace: mode, buffers and random state are as before, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

SavedBuffers: TypeAlias = list[tuple[nn.Module, str, Tensor, Tensor]]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the block, and everything back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with preserved_random_state(), preserved_buffers(model.modules()):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def preserved_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give the buffers of some modules back as they were, the same objects with the same bits."""
    buffers = save_buffers(modules)
    try:
        yield
    finally:
        put_back(buffers)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give the block a copy of torch's random state, on every device in use."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        yield


def save_buffers(modules: Iterable[nn.Module]) -> SavedBuffers:
    """Copy the buffers of some modules, for `put_back`."""
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def put_back(buffers: SavedBuffers) -> None:
    """Give buffers back as they were saved, the same objects with the same bits."""
    for module, name, buffer, value in buffers:
        _put_back(module, name, buffer, value)


def _put_back(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    module._buffers[name] = buffer
    # Written only where something changed: a copy would invalidate a backward pass that still needs the buffer.
    if not torch.equal(buffer, value):
        with torch.no_grad():
            buffer.copy_(value)
