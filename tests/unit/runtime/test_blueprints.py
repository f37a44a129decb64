"""The vocabulary: data and operators agree, costs are known beforehand, seeds start without effect."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from esper_core import leyline
from esper_core.blueprints import Blueprint, KernelSpec, SiteContract, get_blueprint, load_catalogue
from esper_core.blueprints.messages import (
    contract_from_message,
    contract_to_message,
    descriptor,
    kind_from_message,
    parameters_from_messages,
    parameters_to_messages,
)
from esper_runtime import check_module, count_flops
from esper_runtime.blueprints import OPERATORS, build, flops, parameter_count
from esper_runtime.errors import BlueprintParameterError, SiteContractError, UnknownBlueprintError
from support.growth import CONTRACTS, fed, shake

SOUND = [
    pytest.param(blueprint, kind, id=f"{blueprint.blueprint_id}-{kind}")
    for blueprint in load_catalogue()
    if not blueprint.quarantine_only
    for kind in blueprint.site_kinds
]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_catalogue_and_the_operators_name_each_other() -> None:
    assert {blueprint.operator for blueprint in load_catalogue()} == set(OPERATORS)
    for blueprint in load_catalogue():
        assert blueprint.complete({}) == dict(sorted(blueprint.complete({}).items()))


def test_every_entry_has_its_leyline_descriptor() -> None:
    for blueprint in load_catalogue():
        message = descriptor(blueprint)
        assert message.operator and message.tier and len(message.parameters) == len(blueprint.parameters)
        assert [kind_from_message(kind) for kind in message.site_kinds] == list(blueprint.site_kinds)


def test_fixtures_are_quarantined_and_only_they_are_high_risk() -> None:
    fixtures = [blueprint for blueprint in load_catalogue() if blueprint.quarantine_only]
    assert len(fixtures) >= 3
    assert all((blueprint.tier == "HIGH_RISK") == blueprint.quarantine_only for blueprint in load_catalogue())


@pytest.mark.parametrize(("blueprint", "kind"), SOUND)
def test_a_seed_starts_without_any_effect(blueprint: Blueprint, kind: str) -> None:
    contract = CONTRACTS[kind]
    seed = build(blueprint.blueprint_id, {}, contract, generator())
    x = torch.randn(contract.shape(3), generator=generator())
    assert torch.equal(seed(*fed(seed, x)), torch.zeros_like(x))
    seed.replaces = True
    assert torch.equal(seed(*fed(seed, x)), x)


@pytest.mark.parametrize(("blueprint", "kind"), SOUND)
def test_costs_are_known_before_a_seed_exists(blueprint: Blueprint, kind: str) -> None:
    contract = CONTRACTS[kind]
    seed = build(blueprint.blueprint_id, {}, contract, generator())
    check_module(seed, contract)
    assert parameter_count(blueprint.blueprint_id, {}, contract) == sum(p.numel() for p in seed.parameters())
    counted = count_flops(seed, fed(seed, torch.zeros(contract.shape(1))))
    assert flops(blueprint.blueprint_id, {}, contract) == counted.forward


@pytest.mark.parametrize(("blueprint", "kind"), SOUND)
def test_a_seed_can_learn_and_keeps_the_shape(blueprint: Blueprint, kind: str) -> None:
    contract = CONTRACTS[kind]
    seed = build(blueprint.blueprint_id, {}, contract, generator())
    shake(seed)
    x = torch.randn(contract.shape(3), generator=generator())
    seed(*fed(seed, x)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in seed.parameters())


def test_building_draws_from_its_own_generator_only() -> None:
    before = torch.get_rng_state()
    first = build("mlp_residual.v1", {}, CONTRACTS["features"], generator())
    second = build("mlp_residual.v1", {}, CONTRACTS["features"], generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_causal_attention_never_looks_ahead() -> None:
    contract = CONTRACTS["sequence"]
    seed = build("attention.v1", {"heads": 2}, contract, generator())
    shake(seed)
    x = torch.randn(contract.shape(1), generator=generator())
    changed = x.clone()
    changed[:, 3:] += 1.0
    assert torch.equal(seed(x)[:, :3], seed(changed)[:, :3])


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"width": 3}, "parameters.width"),
        ({"expansion": 9.0}, "parameters.expansion"),
        ({"expansion": float("nan")}, "parameters.expansion"),
        ({"expansion": "2"}, "parameters.expansion"),
        ({"activation": "tanh"}, "parameters.activation"),
    ],
)
def test_a_bad_parameter_is_named_with_what_is_allowed(parameters: dict[str, object], field: str) -> None:
    with pytest.raises(BlueprintParameterError) as refusal:
        build("mlp_residual.v1", parameters, CONTRACTS["features"], generator())
    assert refusal.value.field == field and refusal.value.allowed


@pytest.mark.parametrize("taps", [2, 4, 11, True, 3.0])
def test_taps_are_odd_whole_numbers(taps: object) -> None:
    with pytest.raises(BlueprintParameterError):
        get_blueprint("conv1d_residual.v1").complete({"kernel_size": taps})


def test_unknown_blueprints_and_wrong_sites_are_refused() -> None:
    with pytest.raises(UnknownBlueprintError, match=r"mlp_residual\.v1"):
        build("nothing.v1", {}, CONTRACTS["features"], generator())
    with pytest.raises(SiteContractError) as refusal:
        build("conv1d_residual.v1", {}, CONTRACTS["features"], generator())
    assert refusal.value.allowed == "channels_1d"
    with pytest.raises(BlueprintParameterError, match="divisor"):
        build("attention.v1", {"heads": 3}, CONTRACTS["sequence"], generator())


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "cube", "channels": 3},
        {"kind": "features", "channels": 0},
        {"kind": "features", "channels": 3, "length": 4},
        {"kind": "image", "channels": 3, "height": -1},
        {"kind": "image", "channels": 3, "inputs": 3},
        {"kind": "features", "channels": 3, "inputs": -1},
    ],
)
def test_an_impossible_contract_cannot_be_made(fields: dict[str, object]) -> None:
    with pytest.raises(SiteContractError):
        SiteContract(**fields)  # type: ignore[arg-type]


def test_contracts_and_parameters_survive_their_messages() -> None:
    for contract in CONTRACTS.values():
        assert contract_from_message(contract_to_message(contract)) == contract
    values = get_blueprint("mlp_residual.v1").complete({"expansion": 2})
    assert parameters_from_messages(parameters_to_messages(values)) == values
    with pytest.raises(BlueprintParameterError):
        parameters_from_messages([leyline.BlueprintParameter(name="expansion")])
    with pytest.raises(SiteContractError):
        kind_from_message(0)


def test_a_spec_is_complete_and_its_digest_ignores_order() -> None:
    contract = CONTRACTS["features"]
    short = KernelSpec("mlp_residual.v1", contract, {"expansion": 2})
    full = KernelSpec("mlp_residual.v1", contract, {"normalise": "none", "activation": "relu", "expansion": 2.0})
    assert short == full and short.digest == full.digest and hash(short) == hash(full)
    assert KernelSpec.from_dict(short.to_dict()) == short


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, esper_core.blueprints.messages as m; m.load = 1; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", CONTRACTS)
def test_fixtures_do_what_they_are_for(kind: str) -> None:
    contract = CONTRACTS[kind]
    x = torch.ones(contract.shape(2), requires_grad=True)
    assert build("nan_injection.v1", {}, contract, generator())(x).isnan().any()
    loud = build("exploding_gradient.v1", {}, contract, generator())
    assert torch.autograd.grad(loud(x).sum(), x)[0].abs().max() > 1e6
    silent = build("vanishing_gradient.v1", {}, contract, generator())
    assert torch.autograd.grad(silent(x).sum(), x)[0].abs().max() < 1e-12
