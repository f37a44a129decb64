"""The optimizer through growth: groups keep their settings and state by name, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from esper_core import leyline
from esper_core.clocks import ManualClock
from esper_core.journal import read_journal
from esper_runtime.errors import TopologyMismatchError
from esper_runtime.optim import OptimizerState, capture_optimizer
from support.tolaria_runs import SEED, SmallRun, attach, detach, prepare_kernel, set_stage
from tolaria.growth.executor import DirectiveExecutor
from tolaria.growth.operations import GrowthOperations
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.optimizer import HOST_GROUP, group_view
from tolaria.training.regrouping import FAILURES, OPEN_S
from tolaria.training.session import Session
from tolaria.training.step import training_step


def executor(run: SmallRun, clock: ManualClock | None = None) -> DirectiveExecutor:
    operations = GrowthOperations(run.session, run.links.prepared, clock=clock or ManualClock())
    return DirectiveExecutor(operations, lambda: run.session.counters.step)


def equal(first: Mapping[str, Mapping[str, Tensor]], second: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name][key]) for name, kept in first.items() for key, value in kept.items()
    )


def unusual(session: Session) -> dict[str, Any]:
    """Give the host's group settings that no default has."""
    settings = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.03, "amsgrad": False, "note": "kept"}
    session.optimizer.param_groups[0].update(settings)
    return settings


@pytest.mark.req("TOL-13")
def test_groups_keep_settings_and_state_while_seeds_come_and_go(run: SmallRun) -> None:
    session, does = run.session, executor(run)
    settings = unusual(session)
    for _ in range(3):
        training_step(session, 4.0)
    before = capture_optimizer(session.host, session.optimizer)
    prepare_kernel(session, run.links, SEED)
    assert does.apply(attach(session, SEED)).applied
    grown = capture_optimizer(session.host, session.optimizer)
    assert equal(grown.tensors, before.tensors)
    for name in (HOST_GROUP, SEED):
        assert {key: group_view(session.optimizer, name)[key] for key in settings} == settings
        assert group_view(session.optimizer, name)["base_lr"] == session.plan.optimizer.learning_rate
    assert does.apply(detach(session, SEED)).applied
    after = capture_optimizer(session.host, session.optimizer)
    assert after.groups == before.groups and equal(after.tensors, before.tensors)


@pytest.mark.req("TOL-13")
def test_a_snapshot_brings_back_every_group_by_the_names_of_its_parameters(run: SmallRun) -> None:
    session, does = run.session, executor(run)
    prepare_kernel(session, run.links, SEED)
    does.apply(attach(session, SEED))
    does.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING))
    session.optimizer.param_groups[1].update({"weight_decay": 0.5, "base_lr": 1e-4})
    training_step(session, 4.0)
    snapshot, kept = capture_session(session, 0.0), capture_optimizer(session.host, session.optimizer)
    does.apply(detach(session, SEED))
    unusual(session)
    restore_session(session, snapshot)
    found = capture_optimizer(session.host, session.optimizer)
    assert found.groups == kept.groups and equal(found.tensors, kept.tensors)
    assert group_view(session.optimizer, SEED)["weight_decay"] == 0.5


def misshapen(saved: OptimizerState) -> OptimizerState:
    name, tensors = next(iter(saved.tensors.items()))
    return replace(saved, tensors={**saved.tensors, name: {**tensors, "exp_avg": torch.zeros(2, 2)}})


def of_sgd(saved: OptimizerState) -> OptimizerState:
    ((names, options),) = saved.groups
    return replace(saved, groups=((names, {key: value for key, value in options.items() if key != "betas"}),))


def doubled(saved: OptimizerState) -> OptimizerState:
    return replace(saved, groups=saved.groups * 2)


def unknown(saved: OptimizerState) -> OptimizerState:
    return replace(saved, tensors={**saved.tensors, "nowhere.weight": {}})


@pytest.mark.req("TOL-14")
@pytest.mark.parametrize(
    ("damage", "told"),
    [(misshapen, "exp_avg"), (of_sgd, "betas"), (doubled, "more than one group"), (unknown, "nowhere.weight")],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_changed(run: SmallRun, damage: Any, told: str) -> None:
    session = run.session
    training_step(session, 4.0)
    snapshot = capture_session(session, 0.0)
    training_step(session, 4.0)
    weights = {name: tensor.clone() for name, tensor in session.host.model.state_dict().items()}
    moments = capture_optimizer(session.host, session.optimizer)
    assert snapshot.optimizer is not None
    with pytest.raises(TopologyMismatchError, match=told):
        restore_session(session, replace(snapshot, optimizer=damage(snapshot.optimizer)))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in session.host.model.state_dict().items())
    assert equal(capture_optimizer(session.host, session.optimizer).tensors, moments.tensors)
    assert session.counters.step == 2


def spoil(run: SmallRun) -> Tensor:
    """Put a parameter of the prepared seed into the host's group, so that torch refuses it a group of its own."""
    kernel = prepare_kernel(run.session, run.links, SEED)
    stray = next(kernel.module.parameters())
    run.session.optimizer.param_groups[0]["params"].append(stray)
    return stray


@pytest.mark.req("TOL-16")
def test_a_refused_rebuild_is_told_and_leaves_the_model_as_it_was(run: SmallRun) -> None:
    session, does = run.session, executor(run)
    modules = dict(session.host.model.named_modules())
    spoil(run)
    result = does.apply(attach(session, SEED))
    assert not result.applied and "optimizer refused" in result.message
    assert dict(session.host.model.named_modules()) == modules
    assert len(session.optimizer.param_groups) == 1 and not session.book.entries


@pytest.mark.req("TOL-16")
def test_failing_rebuilds_open_the_breaker_and_a_good_one_closes_it(run: SmallRun) -> None:
    session, clock = run.session, ManualClock()
    does = executor(run, clock)
    stray = spoil(run)
    codes = [does.apply(attach(session, SEED)).error_code for _ in range(FAILURES + 1)]
    generation = session.host.generation
    assert len(set(codes[:FAILURES])) == 1 and codes[-1] != codes[0]
    group = session.optimizer.param_groups[0]
    group["params"][:] = [parameter for parameter in group["params"] if parameter is not stray]
    held_back = does.apply(attach(session, SEED))
    assert not held_back.applied and held_back.error_code == codes[-1] and session.host.generation == generation
    clock.advance(OPEN_S)
    assert does.apply(attach(session, SEED)).applied
    assert does.apply(detach(session, SEED)).applied


@pytest.mark.req("TOL-16")
def test_the_outcome_of_a_rebuild_is_an_event_of_the_run(run: SmallRun) -> None:
    spoil(run)
    run.links.inbox.post(attach(run.session, SEED))
    run.parts.fence.cross()
    run.events.sync()
    told = [leyline.RunEvent.FromString(line) for line in read_journal(run.folder.events_path).payloads]
    assert any("optimizer refused" in event.directive.message for event in told)
