"""Growing: dormant is untouched, culling restores, names are stable, stacks work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper_runtime import HOST, Host, Site, SiteContract, seed_owner, stages
from esper_runtime.graft import Graft
from support.growth import SEED, SITES, batch, equal_bits, grow, shake, state_of, tiny_host, tiny_model


def test_a_dormant_host_is_untouched() -> None:
    bare, model = tiny_model(), tiny_model()
    before = torch.get_rng_state()
    host = Host(model, SITES, sample=batch()[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert list(model.state_dict()) == list(bare.state_dict()) and equal_bits(model.state_dict(), bare.state_dict())
    assert not any(isinstance(module, Graft) or module._forward_hooks for module in model.modules())
    assert [str(module) for module in model.modules()] == [str(module) for module in bare.modules()]
    assert host.generation == 0 and host.contract("deep") == SiteContract("features", 10)


def test_a_germinated_seed_has_no_effect_and_no_gradient() -> None:
    host = tiny_host()
    host.model.eval()
    x, _ = batch()
    expected = host.model(x)
    seed = grow(host)
    shake(seed)
    output = host.model(x)
    assert torch.equal(output, expected)
    output.sum().backward()
    assert all(parameter.grad is None for parameter in seed.parameters())
    assert host.generation == 1 and host.seed(SEED).stage == stages.GERMINATED


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["grow", "train", "blend", "shadow", "cull"]), st.sampled_from(["hidden", "deep"])),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None)
def test_whatever_was_grown_culling_it_all_restores_the_host(steps: list[tuple[str, str]]) -> None:
    host = tiny_host()
    originals, before = dict(host.model.named_modules()), state_of(host)
    keys, flags = list(host.model.state_dict()), [p.requires_grad for p in host.model.parameters()]
    for number, (step, site) in enumerate(steps):
        here = [record.seed_id for record in host.seeds() if record.site == site]
        if step == "grow":
            shake(grow(host, site, f"{site}/{number}"))
        elif here and step == "cull":
            host.cull(here[number % len(here)])
        elif here:
            stage = {"train": stages.TRAINING, "blend": stages.BLENDING, "shadow": stages.SHADOWING}[step]
            host.set_stage(here[-1], stage)
    for record in host.seeds():
        host.cull(record.seed_id)
    assert equal_bits(state_of(host), before) and list(host.model.state_dict()) == keys
    assert all(module is originals[name] for name, module in host.model.named_modules())
    assert [p.requires_grad for p in host.model.parameters()] == flags
    assert host.ownership.owners() == (HOST,)


def test_names_are_stable_through_stacks_and_fossilising() -> None:
    host = tiny_host()
    bare = {name: id(parameter) for name, parameter in host.model.named_parameters()}
    for seed_id in ("a", "b"):
        shake(grow(host, "hidden", seed_id))
        host.set_stage(seed_id, stages.SHADOWING)
    host.fossilise("a")
    names = {item.name: id(item.tensor) for item in host.named_parameters()}
    assert bare.items() <= names.items()
    assert {name for name in names if name not in bare} == {
        f"seed:{seed}:{part}" for seed in "ab" for part in ("inner.weight", "inner.bias", "outer.weight", "outer.bias")
    }
    assert host.ownership.owner_of("seed:a:inner.weight") == HOST
    assert host.ownership.owner_of("seed:b:inner.weight") == seed_owner("b")


def test_a_graft_can_leave_from_below_another() -> None:
    host = tiny_host()
    original = host.model.get_submodule("body")
    grow(host, "hidden", "a")
    grow(host, "hidden", "b")
    host.cull("a")
    assert host.graft("b").host is original
    host.cull("b")
    assert host.model.get_submodule("body") is original


def test_sites_inside_a_grafted_module_can_be_grafted() -> None:
    model = tiny_model()
    host = Host(model, [Site("block", "body", "features"), Site("inner", "body.2", "features")], sample=batch()[0])
    grow(host, "block", "outer")
    grow(host, "inner", "within")
    host.cull("outer")
    assert isinstance(model.body[2], Graft)
    host.cull("within")
    assert isinstance(model.body[2], nn.ReLU)


def test_a_host_that_reads_its_submodule_does_not_notice() -> None:
    host = tiny_host()
    grow(host, "deep")
    assert host.model.get_submodule("middle").in_features == 10
    with pytest.raises(AttributeError):
        _ = host.model.get_submodule("middle").no_such_thing
