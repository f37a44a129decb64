"""What happens when journal and runtime meet again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper_core import leyline
from kasmina import facts as f
from kasmina.directives import Directive
from kasmina.journal import decode_facts, encode_facts
from kasmina.lifecycle import (
    BLENDING,
    CULLED,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    SHADOWING,
    TRAINING,
)
from support.kasmina_life import RUN, Grown, ScriptedRuntime, germinate, seed_command
from support.kasmina_seed import SEED, grown


def restart(run: ScriptedRuntime) -> None:
    facts = decode_facts(encode_facts(run.facts))
    run.executor = run.fresh()
    assert run.executor.replay(facts) == len(run.facts)


@pytest.mark.parametrize("stage", [GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY])
def test_after_a_restart_a_life_goes_on_where_it_was(stage: int) -> None:
    run = grown(stage)
    restart(run)
    assert run.connect() == ()
    while run.stage(SEED) < PROBATIONARY:
        run.train(5)
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation))
    run.train(50)
    assert run.stage(SEED) == FOSSILIZED
    restart(run)
    assert run.connect() == ()


def test_probes_made_before_a_restart_still_count() -> None:
    run = grown(SHADOWING)
    run.train(10)
    before = run.executor.ledger.seeds[SEED].probes
    restart(run)
    assert run.executor.ledger.seeds[SEED].probes == before != ()


def test_a_directive_without_answer_is_given_again_under_the_same_id() -> None:
    run = ScriptedRuntime()
    run.connect()
    from kasmina.operations import Supply
    from support.kasmina_life import kernel_for

    command = germinate()
    key = run.validator.kernel_key(command, run.executor.ledger)
    assert key is not None
    run.facts.extend(run.executor.command(command, Supply(run.catalogue.get(key.blueprint_id), key, kernel_for(key))))
    lost = run.of(f.DirectiveIssued)[-1].directive
    restart(run)
    again = run.executor.hello(run.greeting())
    assert [fact.directive for fact in again.facts if isinstance(fact, f.DirectiveIssued)] == [lost]


def test_a_directive_applied_while_kasmina_was_dead_counts_as_applied() -> None:
    run = grown(TRAINING)
    run.held[SEED].stage = TRAINING
    evidence = run.evidence(run.held[SEED])
    run.step_now += 30
    facts = run.executor.evidence(replace(evidence, step=run.step_now))
    run.facts.extend(facts)
    issued = [fact.directive for fact in facts if isinstance(fact, f.DirectiveIssued)]
    assert issued[-1].details.stage == BLENDING
    run.apply(issued[-1])
    restart(run)
    assert run.connect() == ()
    assert run.stage(SEED) == BLENDING
    assert run.held[SEED].ramp > 1, "the ramp was given as well"


def test_a_directive_found_applied_is_neither_overdue_later_nor_given_again() -> None:
    run = grown(BLENDING)
    issued = unanswered(run, SHADOWING)
    run.apply(issued)
    restart(run)
    assert run.connect() == ()
    assert (run.stage(SEED), run.executor.ledger.seeds[SEED].pending) == (SHADOWING, None)
    run.clock.advance(run.rules.directive_timeout_s + 60)
    before = len(run.of(f.DirectiveIssued))
    run.report()
    assert len(run.of(f.DirectiveIssued)) == before


def unanswered(run: ScriptedRuntime, stage: int) -> Directive:
    """Train until a directive to a stage is out, and leave it without an answer."""
    for _ in range(100):
        run.step_now += 5
        facts = run.executor.evidence(run.evidence(run.held[SEED]))
        run.facts.extend(facts)
        for fact in facts:
            if isinstance(fact, f.DirectiveIssued) and fact.directive.details.stage == stage:
                return fact.directive
    raise AssertionError(f"no directive to stage {stage}")


def test_a_seed_that_the_journal_does_not_know_is_culled() -> None:
    run = ScriptedRuntime()
    run.held[SEED] = Grown(SEED, "hidden", SHADOWING, 0)
    notes = run.connect()
    assert [(note.seed_id, note.journal_stage, note.runtime_stage) for note in notes] == [(SEED, 0, SHADOWING)]
    assert "is culled" in notes[0].resolution
    assert run.stage(SEED) == EMBARGOED and not run.held


def test_what_is_already_part_of_the_host_is_taken_on_record() -> None:
    run = ScriptedRuntime()
    run.held[SEED] = Grown(SEED, "hidden", FOSSILIZED, 0)
    notes = run.connect()
    assert "taken on record" in notes[0].resolution
    assert run.stage(SEED) == FOSSILIZED and run.held


@pytest.mark.parametrize("stage", [TRAINING, PROBATIONARY])
def test_a_seed_lost_by_a_rollback_is_taken_as_gone(stage: int) -> None:
    run = grown(stage)
    run.held.clear()
    run.generation += 1
    run.step_now = 0
    notes = run.connect()
    assert [(note.journal_stage, note.runtime_stage) for note in notes] == [(stage, 0)]
    assert run.executor.ledger.seeds[SEED].closed
    assert run.command(germinate(2, run.generation)).outcome.accepted
    assert run.of(f.SeedPlanted)[-1].seed_id == f"{RUN}/hidden/2"


def test_a_seed_in_an_earlier_stage_goes_on_from_there_and_earns_its_merit_again() -> None:
    run = grown(PROBATIONARY)
    run.held[SEED].stage, run.held[SEED].stage_step = BLENDING, run.step_now
    notes = run.connect()
    assert "goes on from BLENDING" in notes[0].resolution
    assert run.stage(SEED) == BLENDING and run.executor.ledger.seeds[SEED].probes == ()
    while run.stage(SEED) < PROBATIONARY:
        run.train(5)


def test_a_kept_seed_that_a_resume_brings_back_to_probation_is_judged_again() -> None:
    run = grown(PROBATIONARY)
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation))
    run.train(50)
    assert run.stage(SEED) == FOSSILIZED
    run.held[SEED].stage = PROBATIONARY
    run.connect()
    assert run.stage(SEED) == PROBATIONARY
    assert run.executor.ledger.live_seeds()


def test_a_kept_seed_may_be_left_out_of_the_inventory_unless_the_run_went_back() -> None:
    run = grown(PROBATIONARY)
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation))
    run.train(50)
    run.held.clear()
    assert run.connect() == ()
    assert run.stage(SEED) == FOSSILIZED
    run.step_now = 5
    notes = run.connect()
    assert notes[0].journal_stage == FOSSILIZED
    assert run.stage(SEED) == DORMANT


@pytest.mark.parametrize("before_detach", [True, False])
def test_a_culled_seed_that_comes_back_is_detached_again(before_detach: bool) -> None:
    run = grown(TRAINING)
    if before_detach:
        run.refuse = {leyline.DIRECTIVE_KIND_DETACH: "ESP-1000"}
    run.command(seed_command(leyline.SEED_OPERATION_CULL, SEED, run.generation))
    run.refuse = {}
    assert run.stage(SEED) == (CULLED if before_detach else EMBARGOED)
    run.held[SEED] = Grown(SEED, "hidden", TRAINING, run.step_now)
    notes = run.connect()
    assert "detached again" in notes[0].resolution
    assert run.stage(SEED) == EMBARGOED and not run.held


@pytest.mark.req("KAS-13")
def test_a_reset_that_the_runtime_did_not_hear_is_repeated_after_a_restart_as_well() -> None:
    run = ScriptedRuntime()
    run.connect(teacher_id="mentor")
    run.take(run.executor.reset_teacher("It teaches nonsense."))
    restart(run)
    for teacher_id, told in (("mentor", 2), ("", 2), ("another", 2)):
        run.connect(teacher_id=teacher_id)
        assert [fact.teacher_id for fact in run.of(f.TeacherReset)] == ["mentor"] * told
    assert run.executor.ledger.teacher_id == "another"
