"""Each kind of seed through a whole life at each kind of site: cull, rollback, fossil, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper_core.blueprints import Blueprint, KernelSpec, load_catalogue
from esper_runtime import (
    BlendSpec,
    Host,
    Site,
    capture,
    export_model,
    load_exported,
    load_kernel,
    materialise,
    modes,
    restore,
    stages,
)
from support.growth import CONTRACTS, Carrier, shake

SEED = "R/here/1"
PAIRS = [
    pytest.param(blueprint, kind, id=f"{blueprint.blueprint_id}-{kind}")
    for blueprint in load_catalogue()
    if not blueprint.quarantine_only
    for kind in blueprint.site_kinds
]


def inputs(kind: str) -> Tensor:
    return torch.randn(CONTRACTS[kind].shape(3), generator=torch.Generator().manual_seed(2))


def grown(blueprint: Blueprint, kind: str, mode: int) -> Host:
    """A host with a seed that has moved away from its start, at full alpha."""
    host = Host(Carrier(), (Site("here", "site", CONTRACTS[kind].kind, CONTRACTS[kind]),), sample=inputs(kind))
    spec = KernelSpec(blueprint.blueprint_id, host.contract("here"))
    seed = load_kernel(spec, materialise(spec, 7))
    shake(seed)
    host.germinate("here", seed, seed_id=SEED, blend=BlendSpec(mode), kernel=spec)
    host.set_stage(SEED, stages.SHADOWING)
    return host


@pytest.mark.parametrize(("blueprint", "kind"), PAIRS)
def test_a_culled_seed_leaves_nothing_and_a_rollback_brings_it_back(blueprint: Blueprint, kind: str) -> None:
    host, x = grown(blueprint, kind, modes.RESIDUAL), inputs(kind)
    with_seed, snapshot = host.model(x), capture(host, step=1)
    host.cull(SEED)
    assert torch.equal(host.model(x), Carrier()(x)) and not torch.equal(with_seed, host.model(x))
    assert type(host.model.site) is nn.Identity
    restore(host, snapshot)
    assert torch.equal(host.model(x), with_seed)


@pytest.mark.parametrize(("blueprint", "kind"), PAIRS)
def test_a_fossil_is_exported_and_loaded_to_the_same_bits(blueprint: Blueprint, kind: str, tmp_path: Path) -> None:
    host, x = grown(blueprint, kind, modes.CONVEX), inputs(kind)
    host.fossilise(SEED)
    export_model(host, tmp_path, factory="house:carrier")
    assert torch.equal(load_exported(tmp_path, factory=Carrier)(x), host.model.eval()(x))
