"""Every operation where it is possible and where it is not, and a seed's way through all eleven stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise, product

import pytest

from esper_core import leyline
from kasmina import facts as f
from kasmina.blend import Blend
from kasmina.commands import Command, SeedOperation, TrainerOrder
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
    stage_name,
)
from kasmina.operations import Supply
from kasmina.rules import Rules
from kasmina.run import Boundary
from support.kasmina_life import RUN, TOTAL_STEPS, ScriptedRuntime, germinate, kernel_for, seed_command

SEED = f"{RUN}/hidden/1"
HALFWAY = Blend(leyline.BLEND_MODE_RESIDUAL, 0.5, leyline.ALPHA_SCHEDULE_LINEAR, 0, 30, source="tamiyo")
POSSIBLE = {
    leyline.SEED_OPERATION_ADVANCE: {GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY},
    leyline.SEED_OPERATION_FOSSILIZE: {SHADOWING, PROBATIONARY},
    leyline.SEED_OPERATION_CULL: {GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY},
    leyline.SEED_OPERATION_CANCEL: {DORMANT},
    leyline.SEED_OPERATION_SET_BLEND: {GERMINATED, TRAINING, BLENDING},
}
GATED = Blend(leyline.BLEND_MODE_CONFIDENCE, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 30, (), 4.0, 0.1, 0.2, 0.9, True)
FORWARD = (GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY)


def preparing(run: ScriptedRuntime) -> None:
    """Germinate without an answer of the runtime: the seed stays DORMANT with its kernel on the way."""
    command = germinate()
    key = run.validator.kernel_key(command, run.executor.ledger)
    assert key is not None
    supply = Supply(run.catalogue.get("mlp_residual.v1"), key, kernel_for(key))
    run.facts.extend(run.executor.command(command, supply))


def at(stage: int) -> ScriptedRuntime:
    """Return a run whose seed stands in a stage, any of the eleven."""
    run = ScriptedRuntime(rules=Rules(embargo_epochs=10**6))
    run.connect()
    if stage == DORMANT:
        preparing(run)
        return run
    run.command(germinate())
    goal = stage if stage in FORWARD else PROBATIONARY
    while run.stage(SEED) < goal:
        run.train(5)
        assert run.step_now < TOTAL_STEPS
    LATER.get(stage, lambda run: None)(run)
    assert run.stage(SEED) == stage
    return run


def keep(run: ScriptedRuntime) -> None:
    run.train(35)
    assert run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation, 7)).outcome.accepted
    run.train(5)


def terminate(run: ScriptedRuntime) -> None:
    keep(run)
    run.take(run.executor.ended("completed", False))
    run.connect(inventory=())


def cull(run: ScriptedRuntime) -> None:
    run.command(seed_command(leyline.SEED_OPERATION_CULL, SEED, run.generation, 7))


def cull_in_vain(run: ScriptedRuntime) -> None:
    run.refuse = {leyline.DIRECTIVE_KIND_DETACH: "ESP-1000"}
    cull(run)


def leave_something(run: ScriptedRuntime) -> None:
    """Cull a seed whose optimizer group the runtime cannot get rid of, and let its embargo expire by time."""
    original = run.apply
    left = ("optimizer_group", "cache")
    run.apply = lambda d: replace(original(d), removed_cleanly=False, left_behind=left)  # type: ignore[method-assign]
    cull(run)
    run.clock.advance(run.rules.embargo_s)
    run.report()
    run.apply = original  # type: ignore[method-assign]


LATER: dict[int, Callable[[ScriptedRuntime], None]] = {
    FOSSILIZED: keep,
    TERMINATED: terminate,
    CULLED: cull_in_vain,
    EMBARGOED: cull,
    RESETTING: leave_something,
}


@pytest.mark.parametrize(
    ("operation", "stage"), [pair for pair in product(POSSIBLE, ALL_STAGES) if pair[1] not in POSSIBLE[pair[0]]]
)
def test_an_operation_is_refused_in_every_stage_that_it_is_not_for(operation: int, stage: int) -> None:
    run = at(stage)
    blend = HALFWAY if operation == leyline.SEED_OPERATION_SET_BLEND else None
    before = run.executor.ledger.seeds[SEED]
    outcome = run.command(seed_command(operation, SEED, run.generation, blend=blend)).outcome
    assert not outcome.accepted
    assert outcome.reject_reason == leyline.REJECT_REASON_VALIDATION_FAILED
    assert f"is not possible while the seed is {stage_name(stage)}" in outcome.explanation
    after = run.executor.ledger.seeds[SEED]
    assert (after.stage, after.move, after.pending, after.closed) == (
        before.stage,
        before.move,
        before.pending,
        before.closed,
    )


@pytest.mark.parametrize("operation", [leyline.SEED_OPERATION_ADVANCE, leyline.SEED_OPERATION_CULL])
@pytest.mark.parametrize("stage", FORWARD)
def test_a_seed_can_be_hurried_and_removed_while_it_is_attached(operation: int, stage: int) -> None:
    run = at(stage)
    assert run.command(seed_command(operation, SEED, run.generation)).outcome.accepted
    assert operation == leyline.SEED_OPERATION_ADVANCE or run.stage(SEED) == EMBARGOED


def blends(blend: Blend | None) -> Command:
    return seed_command(leyline.SEED_OPERATION_SET_BLEND, SEED, 1, blend=blend)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (blends(None), "needs a blend configuration"),
        (blends(replace(HALFWAY, target_alpha=0.0)), "target_alpha cannot be 0.0"),
        (blends(replace(HALFWAY, mode=leyline.BLEND_MODE_CHANNEL)), "blend.alpha_vec"),
        (blends(GATED), "Allowed: BLEND_MODE_CONVEX, BLEND_MODE_RESIDUAL, BLEND_MODE_CHANNEL"),
        (seed_command(leyline.SEED_OPERATION_ADVANCE, SEED, 1, resume=True), "goes on by itself"),
        (seed_command(leyline.SEED_OPERATION_CULL, f"{RUN}/hidden/9", 1), "has no seed"),
        (seed_command(leyline.SEED_OPERATION_CULL, SEED, 0), "topology is at 1"),
    ],
)
def test_what_an_operation_lacks_is_said(command: Command, words: str) -> None:
    outcome = at(TRAINING).command(command).outcome
    assert not outcome.accepted and words in outcome.explanation


def test_a_blend_chosen_before_blending_applies_when_it_begins() -> None:
    run = at(TRAINING)
    assert run.command(blends(HALFWAY)).outcome.accepted
    run.train(60)
    blend = run.executor.ledger.seeds[SEED].blend
    assert blend == HALFWAY and run.held[SEED].ramp == 30


def test_cancel_is_refused_once_the_seed_is_being_attached() -> None:
    run = ScriptedRuntime()
    run.connect()
    preparing(run)
    prepare = run.of(f.DirectiveIssued)[-1].directive
    run.facts.extend(run.executor.result(run.apply(prepare)))
    outcome = run.command(seed_command(leyline.SEED_OPERATION_CANCEL, SEED, 0)).outcome
    assert not outcome.accepted and "being attached" in outcome.explanation


def test_fossilize_is_refused_while_merit_is_not_shown() -> None:
    run = at(PROBATIONARY)
    run.contribution = 0.0
    run.executor.ledger.seeds[SEED] = replace(run.executor.ledger.seeds[SEED], probes=(run.probe(), run.probe()))
    outcome = run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation)).outcome
    assert not outcome.accepted and "cannot be told from nothing" in outcome.explanation
    assert run.stage(SEED) == PROBATIONARY


def pause(run: ScriptedRuntime, **changes: object) -> Command:
    plain = Command("pause-1", RUN, leyline.COMMAND_TYPE_PAUSE, run.generation, "", "", None, TrainerOrder("pause"))
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_pause_and_resume_are_verified_and_left_to_the_trainer_and_time_stands_still_meanwhile() -> None:
    run = at(TRAINING)
    assert run.command(pause(run)).outcome.accepted
    for _ in range(50):
        run.clock.advance(1.0)
        run.report()
    assert run.stage(SEED) == TRAINING, "dwell counts steps, and none were made"
    assert run.command(pause(run, command_id="resume-1")).outcome.accepted
    run.train(60)
    assert run.stage(SEED) > TRAINING


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"payload": None}, leyline.REJECT_REASON_VALIDATION_FAILED, "carries no payload"),
        ({"payload": SeedOperation(2)}, leyline.REJECT_REASON_VALIDATION_FAILED, "carries seed_operation"),
        ({"generation": 9}, leyline.REJECT_REASON_STALE_GENERATION, "topology is at"),
    ],
)
def test_a_pause_is_refused_with_its_reason(changes: dict[str, object], reason: int, words: str) -> None:
    run = at(TRAINING)
    outcome = run.command(pause(run, **changes)).outcome
    assert (outcome.accepted, outcome.reject_reason) == (False, reason)
    assert words in outcome.explanation


def test_a_pause_after_its_deadline_or_after_the_run_is_refused() -> None:
    run = at(TRAINING)
    late = pause(run, deadline=run.clock.wall() - timedelta(seconds=1))
    assert run.command(late).outcome.reject_reason == leyline.REJECT_REASON_STALE_COMMAND
    run.take(run.executor.ended("completed", False))
    assert "is over" in run.command(pause(run, generation=run.executor.ledger.generation)).outcome.explanation


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
