"""A seed learns beside its host: apart from it, told where it is not, and not at all while the breaker is open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper_cli.follow import told
from esper_core import leyline
from esper_core.journal import read_journal
from esper_runtime.errors import IsolationViolationError
from esper_runtime.leaks import Leak
from kasmina.convert.evidence import evidence_from_message
from kasmina.gates import judge_gradient_health
from kasmina.gates.limits import GateLimits
from support.metered import metered
from support.tolaria_grown import last_evidence, train
from support.tolaria_runs import SEED, SmallRun, attach, directive, prepare_kernel, small_run
from tolaria.growth.executor import DirectiveExecutor


def test_a_seed_in_shadow_learns_while_the_host_s_gradients_stay_untouched(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    session = run.session
    train(run, 3)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    plain = session.cost.step
    shadow = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_SHADOW)
    assert executor.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=shadow)).applied
    assert session.shadowed == (SEED,) and session.cost.step > plain
    seed = [parameter.detach().clone() for parameter in session.host.graft(SEED).seed.parameters()]
    host = [found.tensor.detach().clone() for found in session.host.named_parameters() if found.seed_id is None]
    train(run, 3)
    learned = session.host.graft(SEED).seed.parameters()
    assert any(not torch.equal(before, after) for before, after in zip(seed, learned, strict=True))
    now = [found.tensor for found in session.host.named_parameters() if found.seed_id is None]
    assert any(not torch.equal(before, after) for before, after in zip(host, now, strict=True))


def beside(run: SmallRun) -> leyline.Directive:
    stage = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_STRAIGHT_THROUGH)
    return directive(run.session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=stage)


@pytest.mark.req("KAS-8")
def test_evidence_says_that_a_seed_learns_apart(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    executor.apply(attach(run.session, SEED))
    assert executor.apply(beside(run)).applied
    train(run, 20)
    evidence = last_evidence(run)
    assert evidence.HasField("isolation_cosine") and evidence.isolation_cosine == 0.0
    assert evidence.isolation_violations == 0 and evidence.host_gradient_norm > 0 and evidence.gradient_norm > 0


@pytest.mark.req("KAS-8")
def test_a_seed_that_reaches_into_its_host_is_told_and_ends_a_strict_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KASMINA_STRICT_ISOLATION", "1")
    run = small_run(tmp_path)
    kernel = prepare_kernel(run.session, run.links, SEED)
    weight = next(found.tensor for found in run.session.host.named_parameters() if found.name.startswith("hidden"))
    kernel.module.register_forward_hook(lambda module, inputs, output: output + weight.mean())
    executor = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    executor.apply(attach(run.session, SEED))
    executor.apply(beside(run))
    with pytest.raises(IsolationViolationError, match="to the host"):
        train(run, 60)
    evidence = last_evidence(run)
    assert evidence.isolation_violations == 1 and evidence.isolation_cosine != 0.0
    assert judge_gradient_health(evidence_from_message(evidence), GateLimits()).reason == "isolation_violated"
    run.events.close()


@pytest.mark.req("KAS-8")
async def test_no_seed_is_attached_while_the_isolation_breaker_is_open_which_is_told(
    run: SmallRun, executor: DirectiveExecutor
) -> None:
    for _ in range(3):
        assert run.session.isolation.judge(SEED, Leak(0.5, 0.5))
    prepare_kernel(run.session, run.links, SEED)
    refused = executor.apply(attach(run.session, SEED))
    assert refused.error_code == "ESP-1019" and run.session.host.generation == 0
    run.session.isolation.breaker.reset()
    assert executor.apply(attach(run.session, SEED)).applied
    happened = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    moves = [event for event in happened if event.HasField("breaker")]
    assert [event.breaker.to_state for event in moves] == [leyline.CIRCUIT_STATE_OPEN, leyline.CIRCUIT_STATE_CLOSED]
    assert moves[0].breaker.breaker == "runtime.isolation" and SEED in moves[0].breaker.reason
    assert told(moves[0]).startswith("breaker runtime.isolation OPEN: Seed")
    heard = await metered(moves[:1])
    assert {"esper.breaker.state", "esper.breaker.transitions_total"} <= {point.name for point in heard.points}
    assert [event.name for event in heard.events] == ["breaker_transition"]
