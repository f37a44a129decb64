"""Growing: dormant is untouched, culling restores, names are stable, stacks work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_core.errors import AlreadyExistsError, ValidationError
from esper_runtime import HOST, BlendSpec, Host, Site, SiteContract, modes, seed_owner, stages
from esper_runtime.errors import (
    BlendError,
    MissingLogitsError,
    OwnershipConflictError,
    SeedStateError,
    SiteContractError,
    UnknownSeedError,
    UnknownSiteError,
)
from esper_runtime.graft import Graft
from support.growth import SEED, SITES, batch, equal_bits, grow, kernel, shake, state_of, tiny_host, tiny_model

EXTRA: dict[int, dict[str, object]] = {
    modes.CHANNEL: {"alpha_vec": (0.5,) * 10},
    modes.CONFIDENCE: {"gate_k": 2.0, "gate_tau": 0.0, "alpha_lo": 0.1, "alpha_hi": 1.0},
}


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


@pytest.mark.parametrize("mode", [modes.RESIDUAL, modes.CONVEX])
def test_a_fresh_seed_changes_nothing_at_full_alpha(mode: int) -> None:
    host = tiny_host()
    host.model.eval()
    x, _ = batch()
    expected = host.model(x)
    grow(host, blend=BlendSpec(mode))
    host.set_stage(SEED, stages.SHADOWING)
    assert host.seed(SEED).alpha == 1.0 and torch.equal(host.model(x), expected)


def test_alpha_ramps_over_steps_and_can_be_held() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.STRAIGHT_THROUGH)
    host.set_stage(SEED, stages.BLENDING)
    host.set_blend(SEED, BlendSpec(target_alpha=0.8), start_step=10, end_step=14)
    seen = []
    for step in range(10, 20):
        if step in (12, 15):
            host.hold_alpha(SEED, held=step == 12)
        host.advance(step)
        seen.append(round(host.seed(SEED).alpha, 6))
    assert seen == [0.0, 0.2, 0.2, 0.2, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert float(host.graft(SEED).alpha) == pytest.approx(0.8)


def test_a_ramp_may_be_set_before_its_stage() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.SHADOW)
    host.set_blend(SEED, BlendSpec(), start_step=0, end_step=4)
    host.advance(2)
    assert host.seed(SEED).alpha == 1.0
    host.set_stage(SEED, stages.BLENDING)
    host.advance(2)
    assert host.seed(SEED).alpha == 0.5


@pytest.mark.req("KAS-1")
def test_a_pending_backward_pass_keeps_its_alpha() -> None:
    host = tiny_host()
    seed = grow(host)
    host.set_stage(SEED, stages.TRAINING, alpha=0.5)
    loss = host.model(batch()[0]).sum()
    host.graft(SEED).set_alpha(0.0)
    loss.backward()
    assert seed.outer.bias.grad is not None and bool(seed.outer.bias.grad.abs().sum() > 0)


@pytest.mark.parametrize("mode", sorted(modes.BLEND_MODES))
def test_every_mode_blends_in_the_forward_pass(mode: int) -> None:
    host = tiny_host()
    host.model.eval()
    x, _ = batch()
    plain = host.model(x)
    seed = grow(host, blend=BlendSpec(mode, **EXTRA.get(mode, {})))  # type: ignore[arg-type]
    shake(seed)
    host.set_stage(SEED, stages.SHADOWING)
    host.set_confidence_logits(SEED, plain.detach())
    assert host.model(x).shape == plain.shape and not torch.equal(host.model(x), plain)


@pytest.mark.req("KAS-3")
def test_the_logits_of_a_former_step_gate_nothing() -> None:
    host = tiny_host()
    grow(host, blend=BlendSpec(modes.CONFIDENCE, **EXTRA[modes.CONFIDENCE]))  # type: ignore[arg-type]
    host.set_stage(SEED, stages.SHADOWING)
    x, _ = batch()
    host.advance(1)
    host.set_confidence_logits(SEED, torch.zeros(len(x), 3))
    host.model(x)
    host.advance(1)
    host.model(x)
    host.advance(2)
    with pytest.raises(MissingLogitsError):
        host.model(x)


@pytest.mark.req("KAS-1")
@pytest.mark.parametrize("mode", sorted(modes.BLEND_MODES))
def test_a_thousand_alpha_changes_never_retrace(mode: int) -> None:
    torch._dynamo.reset()
    frames = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal frames
        frames += 1
        return graph.forward

    host = tiny_host()
    host.model.eval()
    shake(grow(host, blend=BlendSpec(mode, **EXTRA.get(mode, {}))))  # type: ignore[arg-type]
    x, _ = batch(size=4)
    host.set_confidence_logits(SEED, host.model(x).detach())
    host.set_stage(SEED, stages.BLENDING)
    compiled = torch.compile(host.model, backend=count)
    with torch.no_grad():
        compiled(x)
        first = frames
        for step in range(1000):
            host.graft(SEED).set_alpha(step / 1000)
            blended = compiled(x)
            assert step % 100 or torch.allclose(blended, host.model(x), atol=1e-6)
    assert frames == first


def test_what_does_not_fit_is_refused_and_leaves_nothing() -> None:
    host = tiny_host()
    before = list(host.model.state_dict())
    spec, seed = kernel(host)
    with pytest.raises(UnknownSiteError):
        host.germinate("nowhere", seed, seed_id=SEED, kernel=spec)
    with pytest.raises(SiteContractError):
        host.germinate("hidden", nn.Linear(10, 9), seed_id=SEED)
    with pytest.raises(SiteContractError):
        host.germinate("hidden", nn.Linear(9, 10), seed_id=SEED)
    with pytest.raises(BlendError):
        host.germinate("hidden", seed, seed_id=SEED, blend=BlendSpec(modes.CHANNEL, alpha_vec=(1.0, 1.0)))
    with pytest.raises(OwnershipConflictError):
        host.germinate("hidden", host.model.get_submodule("middle"), seed_id=SEED)
    assert list(host.model.state_dict()) == before and not host.seeds() and host.generation == 0
    host.germinate("hidden", seed, seed_id=SEED, kernel=spec)
    with pytest.raises(AlreadyExistsError):
        grow(host)
    with pytest.raises(UnknownSeedError):
        host.cull("another")
    with pytest.raises(ValidationError):
        host.set_stage(SEED, stages.FOSSILIZED)
    with pytest.raises(ValidationError):
        host.set_stage(SEED, stages.TRAINING, isolation=0)
    with pytest.raises(SeedStateError):
        host.fossilise(SEED)


def test_a_fossilised_seed_stays() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.PROBATIONARY)
    host.fossilise(SEED)
    with pytest.raises(SeedStateError):
        host.cull(SEED)
    with pytest.raises(SeedStateError):
        host.set_stage(SEED, stages.TRAINING)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = self.one
        self.pair = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.pair(self.other(self.one(x)))
        return output  # type: ignore[no-any-return]


def test_sites_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnknownSiteError):
        Host(tiny_model(), [Site("x", "body.9", "features")])
    with pytest.raises(UnknownSiteError):
        Host(tiny_model(), [Site("x", "", "features")])
    with pytest.raises(ValidationError, match="share"):
        Host(tiny_model(), [SITES[0], SITES[0]])
    with pytest.raises(ValidationError, match="several places"):
        Host(Twice(), [Site("x", "one", "features")])
    with pytest.raises(SiteContractError, match="tuple"):
        Host(Twice(), [Site("x", "pair", "sequence")], sample=torch.zeros(2, 3, 4))
    with pytest.raises(SiteContractError, match="dimensions"):
        Host(tiny_model(), [Site("x", "body", "sequence")], sample=batch()[0])
    with pytest.raises(SiteContractError, match="declares"):
        Host(tiny_model(), [Site("x", "body", "features", SiteContract("features", 3))], sample=batch()[0])
