"""What each kind of seed promises beyond its defaults: no effect at attach, known costs, bounds, quarantine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper_core import leyline
from esper_core.blueprints import Blueprint, KernelSpec, ParameterValue, SiteContract, load_catalogue
from esper_core.blueprints.bounds import ChoiceBound, IntegerBound, ParameterBound, RealBound
from esper_core.blueprints.docs import render
from esper_core.blueprints.messages import blueprint_from_descriptor, descriptor
from esper_runtime import Host, Site, check_module, count_flops, load_kernel, materialise, stages
from esper_runtime.blueprints import build, flops, parameter_count
from esper_runtime.errors import BlueprintParameterError, SiteContractError
from support.growth import CONTRACTS, Carrier, fed, shake

CATALOGUE = {blueprint.blueprint_id: blueprint for blueprint in load_catalogue()}
OFFERED = [blueprint for blueprint in CATALOGUE.values() if not blueprint.quarantine_only]
FIXTURES = [blueprint for blueprint in CATALOGUE.values() if blueprint.quarantine_only]
PAIRS = [
    pytest.param(blueprint, kind, id=f"{blueprint.blueprint_id}-{kind}")
    for blueprint in OFFERED
    for kind in blueprint.site_kinds
]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def edges(bound: ParameterBound, channels: int) -> list[ParameterValue]:
    if isinstance(bound, ChoiceBound):
        return list(bound.allowed)
    assert isinstance(bound, IntegerBound | RealBound)
    # Two parameters have a tighter bound in their site or in each other.
    most = {"heads": channels, "active": 4}.get(bound.name, bound.maximum)
    return [bound.minimum, most]


def variants(blueprint: Blueprint, kind: str) -> list[dict[str, ParameterValue]]:
    """The defaults, and each parameter at each of its edges."""
    channels = CONTRACTS[kind].channels
    return [{}, *({bound.name: value} for bound in blueprint.parameters for value in edges(bound, channels))]


def bits(x: Tensor) -> Tensor:
    return x.detach().view(torch.int32)


def test_the_vocabulary_covers_every_kind_of_site_with_room_to_choose() -> None:
    offered = {
        kind: {blueprint.operator for blueprint in OFFERED if kind in blueprint.site_kinds} for kind in CONTRACTS
    }
    assert offered["features"] == {
        "mlp_residual",
        "widen",
        "norm",
        "low_rank_linear",
        "gated_mlp",
        "mixture_of_experts",
    }
    assert offered["sequence"] == offered["features"] | {"attention"}
    shared = {"norm", "squeeze_excitation", "attention"}
    assert offered["channels_1d"] == shared | {"conv1d_residual", "depthwise_conv1d", "dilated_conv1d"}
    assert offered["image"] == shared | {"conv2d_residual", "depthwise_conv2d", "dilated_conv2d"}


def test_tiers_say_who_may_use_a_blueprint() -> None:
    for blueprint in CATALOGUE.values():
        assert blueprint.approval_required == (blueprint.tier != "SAFE")
        assert blueprint.quarantine_only == (blueprint.tier == "HIGH_RISK")
    assert len(FIXTURES) == 8


def test_every_operator_of_leyline_has_a_blueprint() -> None:
    names = {name.removeprefix("BLUEPRINT_OPERATOR_").lower() for name, _ in leyline.BlueprintOperator.items()}
    assert {blueprint.operator for blueprint in CATALOGUE.values()} == names - {"unspecified"}


@pytest.mark.parametrize(("blueprint", "kind"), PAIRS)
def test_a_host_with_a_fresh_seed_answers_with_the_same_bits(blueprint: Blueprint, kind: str) -> None:
    contract = CONTRACTS[kind]
    x = torch.randn(contract.shape(3), generator=generator())
    host = Host(Carrier(), (Site("here", "site", contract.kind, contract),), sample=x)
    bare = bits(host.model(x))
    spec = KernelSpec(blueprint.blueprint_id, host.contract("here"))
    host.germinate("here", load_kernel(spec, materialise(spec, 7)), seed_id="R/here/1", kernel=spec)
    assert torch.equal(bits(host.model(x)), bare)
    host.set_stage("R/here/1", leyline.SEED_STAGE_TRAINING, isolation=stages.FREEZE, alpha=0.7)
    assert torch.equal(bits(host.model(x)), bare), "live at its alpha, and still without effect"


@pytest.mark.parametrize(("blueprint", "kind"), PAIRS)
def test_costs_at_the_edges_of_the_bounds_are_those_that_torch_counts(blueprint: Blueprint, kind: str) -> None:
    contract = CONTRACTS[kind]
    for values in variants(blueprint, kind):
        seed = build(blueprint.blueprint_id, values, contract, generator())
        check_module(seed, contract)
        found = sum(parameter.numel() for parameter in seed.parameters())
        assert parameter_count(blueprint.blueprint_id, values, contract) == found, values
        counted = count_flops(seed, fed(seed, torch.zeros(contract.shape(1)))).forward
        assert flops(blueprint.blueprint_id, values, contract) == counted, values


@pytest.mark.parametrize(("blueprint", "kind"), PAIRS)
def test_values_beyond_the_bounds_are_refused_by_name(blueprint: Blueprint, kind: str) -> None:
    for bound in blueprint.parameters:
        beyond: list[object] = ["", None, float("nan")]
        if isinstance(bound, IntegerBound | RealBound):
            beyond += [bound.minimum - 1, bound.maximum + 1, True]
        for value in beyond:
            with pytest.raises(BlueprintParameterError) as refusal:
                build(blueprint.blueprint_id, {bound.name: value}, CONTRACTS[kind], generator())
            assert refusal.value.field == f"parameters.{bound.name}"


@pytest.mark.parametrize("blueprint", CATALOGUE.values(), ids=CATALOGUE)
def test_sites_that_a_blueprint_does_not_fit_are_refused(blueprint: Blueprint) -> None:
    for kind in set(CONTRACTS) - set(blueprint.site_kinds):
        with pytest.raises(SiteContractError) as refusal:
            build(blueprint.blueprint_id, {}, CONTRACTS[kind], generator())
        assert refusal.value.field == "contract.kind"


@pytest.mark.parametrize(
    ("blueprint_id", "contract", "values", "allowed"),
    [
        ("attention.v1", SiteContract("sequence", 9), {"heads": 2}, "a divisor of the site's 9 channels"),
        ("spatial_attention.v1", CONTRACTS["image"], {"heads": 8}, "a divisor of the site's 4 channels"),
        ("mixture_of_experts.v1", CONTRACTS["features"], {"experts": 2, "active": 3}, "at most experts, which is 2"),
    ],
)
def test_bounds_that_depend_on_the_site_or_each_other_hold_before_anything_is_built(
    blueprint_id: str, contract: SiteContract, values: dict[str, object], allowed: str
) -> None:
    for asked in (KernelSpec, parameter_count, flops):
        with pytest.raises(BlueprintParameterError) as refusal:
            asked(*((blueprint_id, contract, values) if asked is KernelSpec else (blueprint_id, values, contract)))
        assert refusal.value.field.startswith("parameters.") and refusal.value.allowed == allowed


@pytest.mark.parametrize("blueprint", CATALOGUE.values(), ids=CATALOGUE)
def test_a_blueprint_comes_back_whole_from_its_message(blueprint: Blueprint) -> None:
    assert blueprint_from_descriptor(descriptor(blueprint)) == blueprint


def test_the_page_tells_each_blueprint_with_its_bounds() -> None:
    page = render()
    assert all(f"### {blueprint_id}\n" in page for blueprint_id in CATALOGUE)
    assert "| `heads` | 1 to 8, a divisor of the channels | 1 |" in page
    assert "| `active` | 1 to 8, at most `experts` | 2 |" in page
    assert "| `kernel_size` | 3 to 9 in steps of 2 | 3 |" in page


def test_a_position_hears_its_active_experts_only() -> None:
    contract = SiteContract("features", 4)
    seed = build("mixture_of_experts.v1", {"experts": 4, "active": 1, "expansion": 1.0}, contract, generator())
    shake(seed)
    x = torch.randn(5, 4, generator=generator())
    chosen = F.linear(x, seed.router.weight, seed.router.bias).argmax(dim=-1)
    share = torch.softmax(seed.router(x), dim=-1).gather(-1, chosen[:, None])
    hidden = F.relu(seed.inner(x)).gather(-1, chosen[:, None]) * share
    columns = seed.outer.weight.t()[chosen]
    assert torch.allclose(seed(x), hidden * columns + seed.outer.bias, atol=1e-6)


def test_excitation_scales_between_nothing_and_twice_as_much() -> None:
    seed = build("squeeze_excitation.v1", {}, CONTRACTS["image"], generator())
    shake(seed, scale=20.0)
    seed.replaces = True
    x = torch.rand(CONTRACTS["image"].shape(6), generator=generator()) + 0.5
    factors = (seed(x) / x).flatten(2)
    assert torch.allclose(factors, factors[..., :1].expand_as(factors), atol=1e-5), "one factor per channel"
    assert factors.min() >= 0 and factors.max() <= 2 and factors.std() > 0.1


def test_dilated_taps_see_as_far_as_they_lie_apart() -> None:
    contract = SiteContract("channels_1d", 2, length=21)
    seed = build("dilated_conv1d.v1", {"kernel_size": 3, "dilation": 4}, contract, generator())
    shake(seed)
    x = torch.randn(contract.shape(1), generator=generator())
    changed = x.clone()
    changed[:, :, 10] += 5.0
    seen = (seed(changed) - seed(x)).abs().sum(dim=(0, 1)) > 0
    assert set(seen.nonzero().flatten().tolist()) <= {6, 10, 14}


def test_attention_over_an_image_joins_all_positions() -> None:
    seed = build("spatial_attention.v1", {"heads": 2}, CONTRACTS["image"], generator())
    shake(seed)
    x = torch.randn(CONTRACTS["image"].shape(1), generator=generator()).requires_grad_()
    reach = torch.autograd.grad(seed(x)[0, :, 5, 4].sum(), x)[0].abs().sum(dim=(0, 1))
    assert bool((reach > 0).all())


@pytest.mark.parametrize("kind", CONTRACTS)
def test_fixtures_misbehave_as_they_say(kind: str) -> None:
    contract = CONTRACTS[kind]
    x = torch.ones(contract.shape(2))
    swinging = build("oscillation.v1", {}, contract, generator())
    assert torch.equal(swinging(x), -swinging(x))
    drifting = build("shape_drift.v1", {"after": 1}, contract, generator())
    check_module(drifting, contract)
    assert drifting(x).shape == x.shape != drifting(x).shape
    growing = build("memory_growth.v1", {"mebibytes_per_step": 1}, contract, generator())
    growing(x)
    growing(x)
    assert sum(block.nbytes for block in growing.kept) == 2 << 20
    assert build("slow_forward.v1", {"microseconds_per_example": 5000}, contract, generator()).wait_s == 0.005


@pytest.mark.parametrize("blueprint", FIXTURES, ids=lambda one: one.blueprint_id)
def test_fixtures_declare_what_they_hold(blueprint: Blueprint) -> None:
    for kind in blueprint.site_kinds:
        seed = build(blueprint.blueprint_id, {}, CONTRACTS[kind], generator())
        held = sum(parameter.numel() for parameter in seed.parameters())
        assert parameter_count(blueprint.blueprint_id, {}, CONTRACTS[kind]) == held
