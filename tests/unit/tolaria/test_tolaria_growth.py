"""Directives do at a fence what they say, once, on the generation they were decided on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import torch

from esper_core import leyline
from esper_core.blending import BlendSpec, blend_to_message, modes
from esper_core.clocks import to_timestamp
from support.tolaria_grown import bare_state, train
from support.tolaria_runs import SEED, SmallRun, attach, detach, directive, prepare_kernel, set_blend, set_stage
from tolaria.growth.executor import DirectiveExecutor


def test_a_seed_goes_its_whole_way(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 5)
    kernel = prepare_kernel(session, run.links, SEED)
    before = session.host.parameter_count()
    result = executor.apply(attach(session, SEED))
    assert result.applied and result.generation == 1 and result.parameter_count == kernel.parameter_count
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING)).applied
    frozen = bare_state(run)
    train(run, 5)
    host = {name: value for name, value in bare_state(run).items() if ".seed." not in name}
    assert all(torch.equal(value, frozen[name]) for name, value in host.items())
    assert executor.apply(set_blend(session, SEED, 4)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_BLENDING)).applied
    alphas = []
    for _ in range(6):
        train(run, 1)
        alphas.append(session.host.seed(SEED).alpha)
    assert alphas == sorted(alphas) and alphas[-1] == 1.0
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_SHADOWING)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_PROBATIONARY)).applied
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_FOSSILIZED)).applied
    assert session.host.parameter_count() == before + kernel.parameter_count
    train(run, 3)
    assert not session.book.unsettled()


@pytest.mark.parametrize("mode", [leyline.ISOLATION_MODE_FREEZE, leyline.ISOLATION_MODE_SHADOW])
def test_a_host_gathers_speed_only_after_it_stood_still(run: SmallRun, executor: DirectiveExecutor, mode: int) -> None:
    session = run.session
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    learn = set_stage(session, SEED, leyline.SEED_STAGE_TRAINING)
    learn.set_stage.isolation = leyline.IsolationMode.ValueType(mode)
    assert executor.apply(learn).applied and session.learning_rate.state.thawed_at is None
    train(run, 2)
    assert executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_BLENDING)).applied
    stood_still = mode == leyline.ISOLATION_MODE_FREEZE
    assert session.learning_rate.state.thawed_at == (session.fraction if stood_still else None)


def test_a_directive_is_applied_once(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    order = attach(run.session, SEED)
    first = executor.apply(order)
    assert executor.apply(order) is first
    assert run.session.host.generation == 1


def test_a_stale_or_late_directive_is_refused(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    prepare_kernel(session, run.links, SEED)
    stale = executor.apply(attach(session, SEED, generation=9))
    assert not stale.applied and stale.error_code == "ESP-1016"
    past = to_timestamp(datetime.now(UTC) - timedelta(seconds=1))
    late = executor.apply(attach(session, SEED, deadline=past))
    assert not late.applied and late.error_code == "ESP-1020"
    assert session.host.generation == 0


def test_what_is_not_prepared_cannot_be_attached(run: SmallRun, executor: DirectiveExecutor) -> None:
    result = executor.apply(attach(run.session, SEED))
    assert result.error_code == "ESP-1005" and "Prepare" in result.message


def test_an_unknown_seed_is_a_typed_failure(run: SmallRun, executor: DirectiveExecutor) -> None:
    result = executor.apply(detach(run.session, SEED))
    assert not result.applied and result.error_code == "ESP-1006"


@pytest.mark.req("KAS-3")
def test_a_blend_on_logits_that_nobody_supplies_is_refused_at_the_fence(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    blend = blend_to_message(BlendSpec(modes.CONFIDENCE, gate_k=1.0, gate_tau=0.0, alpha_lo=0.0, alpha_hi=1.0))
    prepare_kernel(run.session, run.links, SEED)
    assert executor.apply(attach(run.session, SEED, blend=blend)).error_code == "ESP-1005"
    assert executor.apply(attach(run.session, SEED)).applied
    chosen = executor.apply(directive(run.session, SEED, leyline.DIRECTIVE_KIND_SET_BLEND, blend=blend))
    assert not chosen.applied and "another blend mode" in chosen.message
    train(run, 2)
