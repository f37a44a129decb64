"""The layers of the host, as the policy's graph wants them."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from esper_core.blueprints import sha256_hex
from esper_runtime.host import Host
from esper_runtime.naming import innermost, parent_of
from tolaria.reporting.records import LayerRecord


def layer_records(host: Host) -> tuple[LayerRecord, ...]:
    """Describe every layer of the bare host that has parameters, in the order from the input."""
    layers: dict[str, list[Tensor]] = {}
    for found in host.named_parameters():
        if found.seed_id is None:
            layers.setdefault(found.name.rpartition(".")[0], []).append(found.tensor)
    return tuple(
        LayerRecord(
            name=name,
            kind=type(_module(host.model, name)).__name__,
            depth=depth,
            parameter_count=sum(tensor.numel() for tensor in tensors),
            weight_norm=_norm([tensor.detach() for tensor in tensors]) or 0.0,
            gradient_norm=_norm([tensor.grad for tensor in tensors if tensor.grad is not None]),
        )
        for depth, (name, tensors) in enumerate(layers.items())
    )


def topology_digest(host: Host) -> str:
    """Return the SHA-256 of the topology record without its generation: the same where the same was grown."""
    record = host.topology().to_dict()["grafts"]
    for graft in record:
        graft.pop("alpha")
        graft.pop("ramp")
    return sha256_hex(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _module(model: nn.Module, path: str) -> nn.Module:
    if not path:
        return innermost(model)
    parent, leaf = parent_of(model, path)
    return innermost(parent.get_submodule(leaf))


def _norm(tensors: list[Tensor]) -> float | None:
    if not tensors:
        return None
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))
