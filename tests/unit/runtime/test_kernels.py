"""Kernels: the same bytes for the same seed, and a typed refusal of everything that is not whole and right."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load, save

from esper_runtime import KernelSpec, load_kernel, materialise, sha256_hex, verify_digest
from esper_runtime.errors import KernelFormatError
from support.growth import CONTRACTS

SPEC = KernelSpec("mlp_residual.v1", CONTRACTS["features"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert materialise(SPEC, 1) == materialise(SPEC, 1) != materialise(SPEC, 2)


def test_a_kernel_comes_back_bit_for_bit_as_a_module_of_its_own() -> None:
    weights = materialise(SPEC, 1)
    first, second = (load_kernel(SPEC, weights, digest=sha256_hex(weights)) for _ in range(2))
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in load(weights).items())
    assert first.inner is not second.inner


def test_a_wrong_digest_is_refused_before_parsing() -> None:
    with pytest.raises(KernelFormatError, match="digest"):
        load_kernel(SPEC, b"not even safetensors", digest=sha256_hex(b"other"))
    verify_digest(b"x", sha256_hex(b"x"))


@pytest.mark.parametrize("keep", [0, 4, 9, 100, -1])
def test_truncated_bytes_are_refused(keep: int) -> None:
    with pytest.raises(KernelFormatError, match="safetensors"):
        load_kernel(SPEC, materialise(SPEC, 1)[:keep])


@pytest.mark.req("TOL-25")
def test_a_pickle_is_not_a_kernel() -> None:
    with pytest.raises(KernelFormatError):
        load_kernel(SPEC, pickle.dumps({"inner.weight": [1.0]}))


def test_other_names_shapes_types_and_values_are_refused() -> None:
    good = load(materialise(SPEC, 1))
    bad = {
        "other tensors": {**good, "extra": torch.zeros(1)},
        r"inner\.bias": {**good, "inner.bias": torch.zeros(3)},
        r"float64": {**good, "outer.bias": good["outer.bias"].double()},
        "not finite": {**good, "outer.bias": torch.full_like(good["outer.bias"], float("nan"))},
    }
    for message, tensors in bad.items():
        with pytest.raises(KernelFormatError, match=message):
            load_kernel(SPEC, save(tensors))
