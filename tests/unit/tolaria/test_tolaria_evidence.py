"""Evidence tells what the gates need, often enough and not too often, and what it costs is paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_core import leyline
from support.tolaria_grown import last_evidence, train
from support.tolaria_runs import SEED, SmallRun, attach, prepare_kernel, set_blend, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.training.links import BoundaryMark


def test_evidence_tells_what_the_gates_need(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 10)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    executor.apply(set_stage(session, SEED, leyline.SEED_STAGE_TRAINING))
    run.links.to_kasmina.take()
    train(run, 20)
    evidence = last_evidence(run)
    assert evidence.finite and evidence.gradient_norm > 0 and evidence.isolation_violations == 0
    assert evidence.output_norm >= 0 and evidence.host_output_norm > 0 and evidence.HasField("latency_ms")
    assert evidence.loss > 0 and evidence.loss_at_germination > 0
    assert "hidden.0" in evidence.host_layers_present
    assert not evidence.HasField("contribution")


def test_a_counterfactual_is_made_in_shadowing_and_paid_for(run: SmallRun, executor: DirectiveExecutor) -> None:
    session = run.session
    train(run, 10)
    prepare_kernel(session, run.links, SEED)
    executor.apply(attach(session, SEED))
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING, leyline.SEED_STAGE_SHADOWING):
        executor.apply(set_stage(session, SEED, stage))
    run.links.to_kasmina.take()
    before = session.counters.flops
    train(run, 10)
    evidence = [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)]
    probed = [item for item in evidence if item.HasField("contribution")]
    assert probed and probed[0].contribution.examples == 1024
    spent = session.counters.flops - before - 10 * session.cost.step
    assert spent == 2 * 1024 * session.cost.inference_per_example * len(probed)


@pytest.mark.req("KAS-15")
def test_evidence_says_what_a_blend_does(run: SmallRun, executor: DirectiveExecutor) -> None:
    prepare_kernel(run.session, run.links, SEED)
    executor.apply(attach(run.session, SEED))
    executor.apply(set_blend(run.session, SEED, 100))
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING):
        executor.apply(set_stage(run.session, SEED, stage))
    train(run, 20)
    evidence = last_evidence(run)
    assert evidence.alpha_mean == evidence.alpha_p95 == pytest.approx(evidence.alpha)
    assert 0 < evidence.alpha < 1 and evidence.sparsity == 0.0 and not evidence.HasField("gate_mean")


@pytest.mark.parametrize(("spacing_ms", "in_epoch"), [(0.0, [2, 4, 6]), (3_600_000.0, [2])])
def test_steps_that_are_faster_than_the_spacing_tell_only_ends_of_epochs(
    tmp_path: Path, spacing_ms: float, in_epoch: list[int]
) -> None:
    run = small_run(tmp_path, evidence_interval_steps=2, evidence_spacing_ms=spacing_ms)
    pulse, counters, epoch_end = run.parts.pulse, run.session.counters, run.session.sampler.batches_per_epoch
    for step in (1, 2, 3, 4, 5, 6, epoch_end):
        counters.step = step - 1
        assert not pulse.watches(), "there is no seed to watch"
        counters.step = step
        pulse.beat()
    marks = [item.step for item in run.links.to_kasmina.take() if isinstance(item, BoundaryMark)]
    assert marks == [*in_epoch, epoch_end]
    run.events.close()
