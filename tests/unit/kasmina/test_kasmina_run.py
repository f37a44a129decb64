"""What a run does by itself: when it begins, as time goes by, and at its end."""

from __future__ import annotations

import pytest

from esper_core import leyline
from esper_core.errors import ValidationError
from kasmina import facts as f
from kasmina.blend import Blend
from kasmina.lifecycle import BLENDING, CULLED, FOSSILIZED, PROBATIONARY, TRAINING
from support.kasmina_life import SITE, TOTAL_STEPS, ScriptedRuntime, germinate
from support.kasmina_seed import SEED, decide, grown, running


def test_a_seed_germinated_at_a_tenth_of_the_budget_is_settled_by_a_quarter() -> None:
    run = running()
    run.train(TOTAL_STEPS // 10)
    run.command(germinate())
    while run.stage(SEED) < PROBATIONARY:
        run.train(5)
    decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    while run.stage(SEED) < FOSSILIZED:
        run.train(5)
    assert run.step_now <= TOTAL_STEPS // 4


def test_the_runtime_is_told_the_isolation_the_run_asked_for_and_only_in_training() -> None:
    run = ScriptedRuntime()
    run.connect(isolation=leyline.ISOLATION_MODE_SHADOW)
    run.command(germinate())
    run.train(60)
    stages = [fact.directive.details for fact in run.of(f.DirectiveIssued) if fact.directive.details.stage]
    assert [(details.stage, details.isolation) for details in stages] == [
        (TRAINING, leyline.ISOLATION_MODE_SHADOW),
        (BLENDING, leyline.ISOLATION_MODE_UNSPECIFIED),
    ]


def test_the_blend_of_the_command_wins_over_the_default() -> None:
    chosen = Blend(leyline.BLEND_MODE_CONVEX, 0.8, leyline.ALPHA_SCHEDULE_LINEAR, 0, 17, source="tamiyo")
    run = running()
    run.command(germinate(blend=chosen))
    run.train(60)
    blends = [fact.directive.details.blend for fact in run.of(f.DirectiveIssued) if fact.directive.details.blend]
    assert blends and all(blend == chosen for blend in blends)


def test_the_default_ramp_is_a_twentieth_of_the_budget() -> None:
    run = grown(BLENDING)
    blend = run.executor.ledger.seeds[SEED].blend
    assert blend is not None and blend.end_steps == TOTAL_STEPS // 20


def test_without_an_answer_from_tamiyo_a_seed_stays_on_probation() -> None:
    run = grown(PROBATIONARY)
    run.train(500)
    assert run.stage(SEED) == PROBATIONARY


def test_dwells_follow_a_run_whose_steps_become_fewer() -> None:
    run = grown(TRAINING)
    run.measured["steps_remaining"] = TOTAL_STEPS // 4
    run.train(10)
    assert run.executor.ledger.total_steps == run.step_now + TOTAL_STEPS // 4


def test_the_end_of_a_run_culls_what_was_not_settled() -> None:
    run = grown(BLENDING)
    run.take(run.executor.ended("completed", False))
    assert run.stage(SEED) == CULLED
    assert run.of(f.DirectiveIssued)[-1].directive.kind != leyline.DIRECTIVE_KIND_DETACH
    refused = run.command(germinate(2, run.generation)).outcome
    assert "is over" in refused.explanation


def test_a_resumable_end_keeps_everything_as_it_is() -> None:
    run = grown(BLENDING)
    run.take(run.executor.ended("halted", True))
    assert run.stage(SEED) == BLENDING
    assert run.connect() == ()


@pytest.mark.parametrize(("field", "value"), [("total_steps", 0), ("steps_per_epoch", 0), ("sites", (SITE, SITE))])
def test_a_greeting_without_what_dwell_is_measured_in_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        ScriptedRuntime().connect(**{field: value})
    assert error.value.field == field
