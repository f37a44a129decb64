"""A seed's way through all eleven stages, what is judged on it, and what its end leaves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from esper_core import leyline
from kasmina import facts as f
from kasmina.lifecycle import (
    ALL_STAGES,
    BLENDING,
    CULLED,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    RESETTING,
    SHADOWING,
    TERMINATED,
    TRAINING,
)
from kasmina.rules import Rules
from kasmina.run import Boundary
from support.kasmina_life import RUN, TOTAL_STEPS, ScriptedRuntime, germinate, seed_command
from support.kasmina_seed import SEED, at

FORWARD = (GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY)


@pytest.mark.req("KAS-6")
def test_two_seeds_go_through_all_eleven_stages() -> None:
    run = ScriptedRuntime(rules=Rules(embargo_epochs=1))
    run.connect()
    run.command(germinate())
    run.contribution = -0.05
    run.train(250)
    run.contribution = 0.05
    second = f"{RUN}/hidden/2"
    assert run.command(germinate(2, run.generation)).outcome.accepted
    while run.stage(second) < PROBATIONARY:
        run.train(5)
    run.train(35)
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, second, run.generation))
    run.train(5)
    run.take(run.executor.ended("completed", False))
    ways = {seed: [move.to_stage for move in run.of(f.StageMoved) if move.seed_id == seed] for seed in (SEED, second)}
    assert ways[SEED] == [GERMINATED, TRAINING, BLENDING, SHADOWING, CULLED, EMBARGOED, RESETTING, DORMANT]
    assert ways[second] == [*FORWARD, FOSSILIZED, TERMINATED]
    assert {*ways[SEED], *ways[second]} == set(ALL_STAGES)
    moves = [move for move in run.of(f.StageMoved) if move.seed_id == second]
    for before, after in pairwise(moves[:-1]):
        assert after.step - before.step >= run.rules.dwell.steps(before.to_stage, TOTAL_STEPS)


def test_a_germination_that_is_under_way_at_the_end_is_terminated() -> None:
    run = at(DORMANT)
    run.take(run.executor.ended("completed", False))
    assert run.stage(SEED) == TERMINATED and not run.executor.ledger.seeds[SEED].kept


def test_a_run_that_comes_back_after_its_end_still_has_what_was_kept() -> None:
    run = at(TERMINATED)
    assert run.executor.ledger.seeds[SEED].kept
    run.connect()
    assert run.stage(SEED) == FOSSILIZED
    assert not [fact for fact in run.of(f.DirectiveIssued) if fact.directive.kind == leyline.DIRECTIVE_KIND_DETACH]
    assert run.command(germinate(2, run.generation, blueprint_id="norm.v1")).outcome.accepted


def test_a_gate_is_judged_once_at_a_boundary() -> None:
    run = at(PROBATIONARY)
    run.train(35)
    run.report()
    run.executor.evidence(run.evidence(run.held[SEED]))
    run.executor.boundary(Boundary(run.step_now, 0, run.generation, False, False))
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation))
    judged = [(fact.verdict.gate, fact.step, run.executor.ledger.seeds[SEED].stage) for fact in run.of(f.GateJudged)]
    assert len(judged) == len(set(judged))


def test_g5_names_what_was_left_behind_and_the_site_stays_shut_until_it_is_gone() -> None:
    run = at(RESETTING)
    failed = run.of(f.GateJudged)[-1].verdict
    assert failed.reason == "left_behind" and "optimizer_group, cache" in failed.explanation
    assert [one.name for one in failed.thresholds if not one.passed] == [
        "no_optimizer_group",
        "no_cache",
        "removed_cleanly",
    ]
    run.executor.ledger.seeds[SEED] = replace(run.executor.ledger.seeds[SEED], attempt=1)
    run.train(100)
    assert run.stage(SEED) == DORMANT
    passed = run.of(f.GateJudged)[-1].verdict
    assert passed.passed and all(one.passed for one in passed.thresholds)


def test_what_only_the_runtime_knows_to_be_kept_stays_kept_after_the_end_of_its_run() -> None:
    run = at(TRAINING)
    run.held[SEED].stage = FOSSILIZED
    run.connect()
    run.take(run.executor.ended("completed", False))
    assert run.stage(SEED) == TERMINATED
    run.connect()
    assert run.stage(SEED) == FOSSILIZED and SEED in run.held
