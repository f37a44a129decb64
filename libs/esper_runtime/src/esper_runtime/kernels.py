"""Kernels: a spec and the safetensors bytes of its weights. Never a pickle; the digest is checked before parsing."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper_core.blueprints import KernelSpec, sha256_hex
from esper_runtime.blueprints.operator import Operator
from esper_runtime.blueprints.registry import build, outline
from esper_runtime.errors import KernelFormatError

__all__ = ["KernelSpec", "load_kernel", "materialise", "sha256_hex", "verify_digest"]


def materialise(spec: KernelSpec, seed: int) -> bytes:
    """Build the kernel of a spec from a fixed seed and return its weights; the same seed gives the same bytes."""
    generator = torch.Generator().manual_seed(seed)
    module = build(spec.blueprint_id, spec.parameters, spec.contract, generator)
    weights: bytes = save({name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()})
    return weights


def verify_digest(data: bytes, expected: str) -> None:
    """Refuse bytes that do not have the digest by which they were asked for.

    Raises
    ------
    KernelFormatError
        If they differ.
    """
    found = sha256_hex(data)
    if found != expected:
        raise KernelFormatError(
            f"The kernel's bytes have digest {found[:12]}…, expected was {expected[:12]}…; fetch it again.",
            details={"expected": expected, "found": found},
        )


def load_kernel(spec: KernelSpec, weights: bytes, *, digest: str | None = None) -> Operator:
    """Build a seed from a kernel's bytes; a module of its own at each call.

    Raises
    ------
    KernelFormatError
        If the digest differs, the bytes are no whole safetensors file, or they hold other names, shapes or types than
        the spec says, or values that are not finite.
    """
    if digest is not None:
        verify_digest(weights, digest)
    try:
        tensors: dict[str, Tensor] = load(weights)
    except (SafetensorError, KeyError, ValueError) as error:
        raise KernelFormatError(
            f"The kernel's bytes are no whole safetensors file ({error}); fetch it again."
        ) from error
    # Compared before memory is taken for it: a spec may be larger than what came, and than all that there is.
    module = outline(spec)
    _check_tensors(module.state_dict(), tensors)
    module.to_empty(device="cpu")
    module.load_state_dict(tensors)
    return module


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    if set(expected) != set(found):
        differing = sorted(set(expected) ^ set(found))
        raise KernelFormatError(f"The kernel holds other tensors than its spec says: {', '.join(differing)}.")
    for name, wanted in expected.items():
        given = found[name]
        if given.shape != wanted.shape or given.dtype != wanted.dtype:
            raise KernelFormatError(
                f"Tensor {name} of the kernel is {given.dtype} {tuple(given.shape)}; "
                f"its spec says {wanted.dtype} {tuple(wanted.shape)}."
            )
        if given.is_floating_point() and not torch.isfinite(given).all():
            raise KernelFormatError(f"Tensor {name} of the kernel holds values that are not finite.")
