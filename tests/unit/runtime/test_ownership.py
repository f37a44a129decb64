"""Ownership: one owner per parameter, by name, without keeping anything alive."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from esper_runtime import HOST, Clash, OwnershipRegistry, seed_owner, teacher_owner
from esper_runtime.errors import OwnershipConflictError
from support.growth import SEED, grow, tiny_host


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


@pytest.mark.req("KAS-14")
def test_an_update_is_judged_parameter_by_parameter() -> None:
    host = tiny_host()
    grow(host)
    mine = list(host.ownership.parameters(seed_owner(SEED)))
    assert host.ownership.validate_update(seed_owner(SEED), mine).accepted
    verdict = host.ownership.validate_update(seed_owner(SEED), [*mine, "head.bias", "nobody"])
    assert not verdict.accepted and verdict.clashes == (Clash("head.bias", HOST), Clash("nobody", None))
    assert verdict.generation == host.ownership.generation


def test_one_parameter_has_one_owner_under_any_name() -> None:
    registry, shared = OwnershipRegistry(), parameter()
    registry.register(HOST, [("w", shared)])
    other = parameter()
    with pytest.raises(OwnershipConflictError) as refusal:
        registry.register(seed_owner("a"), [("x", other), ("y", shared)])
    assert refusal.value.details == {"y": HOST} and registry.owner_of("x") is None


def test_a_seed_that_holds_a_parameter_of_the_host_or_a_view_of_it_is_not_attached() -> None:
    for borrow in (lambda weight: weight, lambda weight: nn.Parameter(weight.detach().view_as(weight))):
        host = tiny_host()
        before = list(host.model.state_dict())
        seed = nn.Linear(10, 10)
        seed.weight = borrow(host.model.get_submodule("middle").weight)
        with pytest.raises(OwnershipConflictError) as refusal:
            host.germinate("hidden", seed, seed_id=SEED)
        assert refusal.value.details == {f"seed:{SEED}:weight": HOST}
        assert list(host.model.state_dict()) == before and host.ownership.owners() == (HOST,)


@pytest.mark.req("KAS-13")
def test_a_new_teacher_replaces_the_former_one() -> None:
    registry, one, two = OwnershipRegistry(), parameter(), parameter()
    registry.register(teacher_owner("1"), [("t", one)])
    registry.register(teacher_owner("2"), [("t", two)])
    assert registry.owners() == (teacher_owner("2"),)


def test_nothing_is_kept_alive() -> None:
    registry = OwnershipRegistry()
    kept, lost = parameter(), parameter()
    registry.register(HOST, [("kept", kept), ("lost", lost)])
    del lost
    gc.collect()
    assert list(registry.parameters(HOST)) == ["kept"]


def test_release_and_transfer_raise_the_generation() -> None:
    registry, one = OwnershipRegistry(), parameter()
    registry.register(seed_owner("a"), [("w", one)])
    first = registry.generation
    assert registry.transfer(seed_owner("a"), HOST) == ("w",) and registry.owner_of("w") == HOST
    assert registry.release(HOST) == ("w",) and registry.generation == first + 2
