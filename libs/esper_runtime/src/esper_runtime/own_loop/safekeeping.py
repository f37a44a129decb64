"""Keeping good states in memory, and going back to one."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from esper_runtime.host import Host
from esper_runtime.optim import SEED_KEY
from esper_runtime.snapshot import Snapshot, capture_random, restore, restore_random


def finite(host: Host) -> bool:
    """Say whether every parameter is finite; buffers may hold infinities by design, as attention masks do."""
    return all(
        bool(torch.isfinite(found.tensor).all())
        for found in host.named_parameters()
        if found.tensor.is_floating_point()
    )


def go_back(host: Host, optimizer: Optimizer, snapshot: Snapshot) -> None:
    """Put back topology, weights, buffers and moments, bit for bit, and drop pending gradients.

    Random state and learning rates stay where they are: they belong to the user's loop, whose data and schedule do not
    go back either.
    """
    random = capture_random({})
    rates = [group["lr"] for group in optimizer.param_groups if SEED_KEY not in group]
    restore(host, snapshot, optimizer=optimizer)
    restore_random(random, {})
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = rates[0 if SEED_KEY in group else index]
