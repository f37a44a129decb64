"""Seeds that read what a site's submodule receives: the same promises as all others, and wrong inputs are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.blueprints import KernelSpec, SiteContract, get_blueprint, load_catalogue
from esper_core.blueprints.messages import contract_from_message, contract_to_message
from esper_runtime import (
    BlendSpec,
    HeldOut,
    Host,
    Session,
    Site,
    add_seed_group,
    capture,
    load_exported,
    load_kernel,
    materialise,
    modes,
    restore,
    stages,
)
from esper_runtime.blueprints import OPERATORS
from esper_runtime.blueprints.registry import assemble
from esper_runtime.errors import SiteContractError
from esper_runtime.own_loop import GrowthStep, Pace, Rules
from esper_runtime.own_loop.plan import kernel_of
from esper_tasks import load_task
from support.growth import SEED, batch, equal_bits, shake, state_of, tiny_model

BODY = SiteContract("features", 10, inputs=4)
OLD = SiteContract("sequence", 8, length=6)
EXTRA: dict[int, dict[str, Any]] = {
    modes.CHANNEL: {"alpha_vec": (0.5,) * 10},
    modes.CONFIDENCE: {"gate_k": 2.0, "gate_tau": 0.0, "alpha_lo": 0.1, "alpha_hi": 1.0},
}


def host_of(contract: SiteContract = BODY, model: nn.Module | None = None, **more: Any) -> Host:
    """A net whose first layer offers its 4 inputs."""
    sites = [Site("hidden", more.pop("path", "body"), "features", contract, **more)]
    return Host(model or tiny_model(), sites, sample=batch()[0])


def widen(host: Host, blend: BlendSpec | None = None, seed_id: str = SEED) -> nn.Module:
    """Germinate a seed that has moved away from its start."""
    spec = KernelSpec("widen.v1", host.contract("hidden"), {"expansion": 0.5})
    seed = load_kernel(spec, materialise(spec, 3))
    shake(seed)
    host.germinate("hidden", seed, seed_id=seed_id, blend=blend, kernel=spec)
    return seed


def own_gradients(host: Host) -> dict[str, Tensor]:
    owned = host.ownership.parameters("host").items()
    return {name: parameter.grad.clone() for name, parameter in owned if parameter.grad is not None}


def test_the_seed_reads_what_the_submodule_receives() -> None:
    host, (x, _) = host_of(), batch()
    host.model.eval()
    h = host.model.get_submodule("body")(x)
    seed = widen(host)
    assert torch.equal(host.model.get_submodule("body")(x), h), "germinated, and still without effect"
    host.set_stage(SEED, stages.SHADOWING)
    hidden = F.relu(F.linear(x, seed.inner.weight, seed.inner.bias))
    expected = h + F.linear(seed.scale * hidden, seed.outer.weight, seed.outer.bias)
    assert torch.allclose(host.model.get_submodule("body")(x), expected, atol=1e-6)


@pytest.mark.parametrize("mode", sorted(modes.BLEND_MODES))
def test_every_blend_mode_works_compiled_as_well(mode: int) -> None:
    torch._dynamo.reset()
    host, (x, _) = host_of(), batch(size=6)
    host.model.eval()
    bare = host.model(x)
    widen(host, BlendSpec(mode, **EXTRA.get(mode, {})))
    host.set_stage(SEED, stages.SHADOWING)
    host.set_confidence_logits(SEED, bare.detach())
    with torch.no_grad():
        grown = host.model(x)
        compiled = torch.compile(host.model, backend="eager", fullgraph=True)(x)
    assert not torch.equal(grown, bare) and torch.equal(compiled, grown)


@pytest.mark.parametrize("isolation", [stages.STRAIGHT_THROUGH, stages.SHADOW])
def test_a_host_trains_bit_for_bit_as_without_the_seed(isolation: int) -> None:
    ends = []
    for with_seed in (False, True):
        torch.manual_seed(1)
        host = host_of(model=nn.Sequential(nn.Linear(4, 4), tiny_model()), path="1.body")
        optimizer = torch.optim.AdamW(host.model.parameters(), lr=0.05)
        if with_seed:
            seed = widen(host)
            learned = {name: p.detach().clone() for name, p in seed.named_parameters()}
            add_seed_group(host, optimizer, SEED)
            host.set_stage(SEED, stages.TRAINING, isolation=isolation)
        torch.manual_seed(0)
        gradients = []
        for step in range(3):
            optimizer.zero_grad()
            x, y = batch(step)
            F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
            if with_seed and isolation == stages.SHADOW:
                with host.shadow(SEED):
                    F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
            gradients.append(own_gradients(host))
            optimizer.step()
        own = {name: tensor for name, tensor in state_of(host).items() if not name.startswith("seed:")}
        ends.append((own, gradients))
    assert equal_bits(ends[0][0], ends[1][0])
    assert all(equal_bits(left, right) for left, right in zip(ends[0][1], ends[1][1], strict=True))
    assert not equal_bits(learned, dict(seed.named_parameters()))


def test_stacked_seeds_all_read_the_first_input_and_a_rollback_restores_them() -> None:
    host, (x, _) = host_of(), batch()
    host.model.eval()
    bare = host.model(x)
    for seed_id in ("one", "two"):
        widen(host, seed_id=seed_id)
        host.set_stage(seed_id, stages.SHADOWING)
    grown, kept = host.model(x), capture(host, step=1)
    host.cull("one")
    assert not torch.equal(host.model(x), grown)
    host.cull("two")
    assert torch.equal(host.model(x), bare)
    restore(host, kept)
    assert torch.equal(host.model(x), grown)


def test_a_sequence_is_widened_position_by_position() -> None:
    contract = SiteContract("sequence", 5, length=6, inputs=3)
    spec = KernelSpec("widen.v1", contract, {"activation": "gelu"})
    seed = load_kernel(spec, materialise(spec, 3))
    shake(seed)
    h, x = torch.zeros(contract.shape(2)), torch.ones(contract.input_shape(2))
    changed = x.clone()
    changed[:, 2] += 1.0
    differing = (seed(h, x) != seed(h, changed)).any(dim=-1).any(dim=0)
    assert differing.nonzero().flatten().tolist() == [2]


class Overwriting(nn.Module):
    """Four features to ten, and the input is gone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x.mul_(2.0), (0, 6))


def replaced(body: nn.Module) -> nn.Module:
    model = tiny_model()
    model.body = body
    return model


@pytest.mark.parametrize(
    ("contract", "model", "told"),
    [
        (SiteContract("features", 10, inputs=5), None, "declares 5 inputs"),
        (BODY, replaced(Overwriting()), "overwrites it in place"),
    ],
)
def test_a_wrong_input_is_told_when_the_host_is_measured(
    contract: SiteContract, model: nn.Module | None, told: str
) -> None:
    with pytest.raises(SiteContractError, match=told) as refusal:
        host_of(contract, model)
    assert refusal.value.field == "sites.hidden.contract.inputs"


def test_without_a_measurement_a_wrong_input_is_told_by_the_first_step() -> None:
    contract = SiteContract("features", 10, inputs=5)
    host = Host(tiny_model(), [Site("hidden", "body", "features", contract)])
    widen(host)
    host.set_stage(SEED, stages.SHADOWING)
    with pytest.raises(SiteContractError, match="declares 5 inputs"):
        host.model(batch()[0])


def test_a_site_without_inputs_takes_no_seed_that_needs_them() -> None:
    silent = SiteContract("features", 10)
    assert not get_blueprint("widen.v1").fits(silent) and get_blueprint("widen.v1").fits(BODY)
    with pytest.raises(SiteContractError) as refusal:
        KernelSpec("widen.v1", silent)
    assert refusal.value.field == "contract.inputs" and "widen.v1" in refusal.value.message
    host = host_of(silent)
    with pytest.raises(SiteContractError, match="does not offer"):
        host.germinate("hidden", assemble(KernelSpec("widen.v1", BODY)), seed_id=SEED)


def test_a_site_may_name_the_blueprints_that_it_admits() -> None:
    host = host_of(blueprint_ids=("widen.v1",))
    spec = KernelSpec("norm.v1", BODY)
    with pytest.raises(SiteContractError, match="admits only"):
        host.germinate("hidden", assemble(spec), seed_id=SEED, kernel=spec)
    with pytest.raises(SiteContractError, match="admits only"):
        kernel_of(host, GrowthStep(0.1, "hidden", "norm.v1"))
    assert kernel_of(host, GrowthStep(0.1, "hidden", "widen.v1")).contract.inputs == 4


def test_the_catalogue_and_the_operators_agree_on_who_reads_inputs() -> None:
    for blueprint in load_catalogue():
        contract = SiteContract(blueprint.site_kinds[0], 4)
        if "features" in blueprint.site_kinds:
            contract = SiteContract("features", 4, inputs=3)
        operator = assemble(KernelSpec(blueprint.blueprint_id, contract))
        assert operator.wants_input == blueprint.reads_input, blueprint.operator
    assert "widen" in OPERATORS


def test_contracts_without_inputs_are_written_and_digested_as_before() -> None:
    assert "inputs" not in OLD.to_dict() and SiteContract.from_dict(OLD.to_dict()) == OLD
    digest = "fe142a7027c501661462f12e616d4ce538e44eddd83b4e6095ac097b3c912db0"
    assert KernelSpec("mlp_residual.v1", OLD).digest == digest
    assert contract_from_message(contract_to_message(BODY)) == BODY
    assert SiteContract.from_dict(BODY.to_dict()) == BODY != SiteContract("features", 10)
    assert KernelSpec("widen.v1", BODY).digest != KernelSpec("widen.v1", SiteContract("features", 10, inputs=5)).digest


@pytest.mark.parametrize("name", ["letter", "digits"])
def test_a_task_tells_what_its_layers_receive(name: str) -> None:
    task = load_task(name)
    model = task.build_model(1)
    inputs = task.data(1).train.inputs[:2]
    host = Host(model, task.sites(model), sample=inputs)
    assert not host.contract("stem").inputs
    assert host.contract("hidden1").inputs == inputs.shape[1]
    assert host.contract("readout").inputs == host.contract("hidden1").channels
    assert host.site("readout").blueprint_ids == ("widen.v1",)


def test_a_loop_of_ones_own_widens_and_exports(tmp_path: Path) -> None:
    def losses(model: nn.Module, part: Any) -> Tensor:
        return F.cross_entropy(model(part[0]), part[1], reduction="none")

    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    session = Session(
        model,
        [Site("hidden", "body", "features", BODY)],
        optimizer,
        held_out=HeldOut([batch(1000), batch(1001, 512)], losses),
        steps=100,
        plan=[GrowthStep(0.2, "hidden", "widen.v1", {"expansion": 0.8})],
        rules=Rules(Pace(training=4, blending=6, shadowing=2, probationary=2, pulse=2)),
    )
    for step in range(100):
        optimizer.zero_grad()
        loss = losses(session.host.model, batch(step)).mean()
        loss.backward()
        session.step(loss)
    session.finish()
    assert [record.stage for record in session.host.seeds()] == [stages.FOSSILIZED], session.explain()
    session.export(tmp_path, factory="support.growth:tiny_model")
    x, _ = batch()
    assert torch.equal(load_exported(tmp_path)(x), session.host.model.eval()(x))
