"""Evidence decides what becomes of a seed: what helps goes on, what harms goes, what cannot be told is waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper_core import leyline
from esper_core.errors import StateConflictError
from kasmina import facts as f
from kasmina.dwell import DwellPolicy
from kasmina.lifecycle import BLENDING, CULLED, EMBARGOED, GERMINATED, PROBATIONARY, SHADOWING, TRAINING
from support.kasmina_life import RUN, TOTAL_STEPS, germinate
from support.kasmina_seed import SEED, decide, grown, running


@pytest.mark.req("KAS-5")
def test_a_seed_that_stops_helping_on_probation_is_culled() -> None:
    run = grown(PROBATIONARY)
    run.contribution = -0.05
    run.train(10)
    assert run.stage(SEED) == EMBARGOED
    failed = [fact.verdict for fact in run.of(f.GateJudged) if fact.verdict.failed]
    assert [verdict.reason for verdict in failed] == ["no_contribution"]


@pytest.mark.req("KAS-5")
def test_a_seed_without_merit_never_reaches_probation() -> None:
    run = running()
    run.contribution = 0.0
    run.command(germinate())
    run.train(300)
    assert PROBATIONARY not in [fact.to_stage for fact in run.of(f.StageMoved)]
    assert run.stage(SEED) >= CULLED
    assert not run.held


@pytest.mark.parametrize("stage", [SHADOWING, PROBATIONARY])
def test_a_merit_that_cannot_be_told_yet_is_waited_for_but_not_for_ever(stage: int) -> None:
    run = grown(stage)
    run.contribution = 0.0
    dwell = DwellPolicy().steps(stage, TOTAL_STEPS)
    run.train(2 * dwell)
    assert run.stage(SEED) == stage
    run.train(6 * dwell)
    assert run.stage(SEED) >= CULLED
    reasons = [fact.verdict.reason for fact in run.of(f.GateJudged) if fact.verdict.failed]
    assert reasons == ["no_contribution"]


def test_a_merit_that_shows_late_is_seen() -> None:
    run = grown(SHADOWING)
    run.contribution = 0.0
    run.train(2 * DwellPolicy().steps(SHADOWING, TOTAL_STEPS))
    run.contribution = 0.05
    run.train(20)
    assert run.stage(SEED) == PROBATIONARY


@pytest.mark.parametrize("stage", [GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY])
def test_evidence_that_is_not_finite_culls_at_once_in_any_stage(stage: int) -> None:
    run = grown(stage)
    run.measured = {"finite": False}
    if stage == GERMINATED:
        run.take(run.executor.evidence(run.evidence(run.held[SEED])))
    else:
        run.train(5)
    assert run.stage(SEED) == EMBARGOED
    assert not run.held


def test_missing_evidence_is_waited_for_and_then_fails() -> None:
    run = grown(SHADOWING)
    run.measured = {"contribution": None}
    run.train(50)
    assert run.stage(SEED) == SHADOWING
    run.train(100)
    assert run.stage(SEED) == EMBARGOED
    assert run.of(f.GateJudged)[-1].verdict.reason == "evidence_missing"


def test_alpha_that_does_not_arrive_is_a_failure_of_g2() -> None:
    run = grown(BLENDING)
    run.measured = {"alpha": 0.2}
    run.train(300)
    assert run.of(f.GateJudged)[-1].verdict.reason == "alpha_stalled"


def test_g3_culls_when_host_layers_are_gone() -> None:
    run = grown(SHADOWING)
    run.measured = {"host_layers_present": ("head",)}
    run.train(40)
    assert run.of(f.GateJudged)[-1].verdict.reason == "mesh_coverage_missing"
    assert run.stage(SEED) == EMBARGOED


def test_a_single_slow_step_culls_nothing_and_three_do() -> None:
    run = grown(BLENDING)
    run.measured = {"latency_ms": 400.0}
    run.train(10)
    run.measured = {}
    run.train(10)
    assert run.stage(SEED) == BLENDING
    run.measured = {"latency_ms": 400.0}
    run.train(15)
    assert run.of(f.GateJudged)[-1].verdict.reason == "latency_over_budget"


@pytest.mark.parametrize(("times", "accepted"), [(1, True), (2, False)])
def test_harm_seen_twice_is_remembered_until_the_next_probe_and_a_leap_is_forgiven(times: int, accepted: bool) -> None:
    run = grown(PROBATIONARY)
    run.train(3 * DwellPolicy().steps(PROBATIONARY, TOTAL_STEPS))
    run.improvement = -0.5
    for _ in range(times):
        run.step_now += 1
        run.executor.ledger.take_evidence(run.evidence(run.held[SEED]))
    run.executor.ledger.take_evidence(replace(run.evidence(run.held[SEED]), contribution=None, improvement=None))
    outcome = decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    assert outcome.accepted == accepted, outcome.explanation
    assert accepted or "without helping" in outcome.explanation


def test_evidence_of_a_seed_that_is_not_on_record_is_refused() -> None:
    run = grown(TRAINING)
    stray = replace(run.evidence(run.held[SEED]), seed_id=f"{RUN}/hidden/9")
    with pytest.raises(StateConflictError, match="not on record"):
        run.executor.evidence(stray)
