"""Every operation where it is possible, and where it is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from esper_core import leyline
from kasmina import facts as f
from kasmina.blend import Blend
from kasmina.commands import Command, SeedOperation, TrainerOrder
from kasmina.lifecycle import (
    ALL_STAGES,
    BLENDING,
    DORMANT,
    EMBARGOED,
    GERMINATED,
    PROBATIONARY,
    SHADOWING,
    TRAINING,
    stage_name,
)
from support.kasmina_life import RUN, ScriptedRuntime, seed_command
from support.kasmina_seed import SEED, at, preparing

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
    run = preparing()
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
