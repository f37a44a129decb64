"""A runtime that refuses, fails or never answers: the directive comes again or the seed goes, and the run goes on."""

from __future__ import annotations

from dataclasses import replace

from esper_core import leyline
from kasmina import facts as f
from kasmina.lifecycle import CULLED, DORMANT, EMBARGOED, PROBATIONARY, TRAINING
from kasmina.rules import Rules
from kasmina.run import Boundary
from support.kasmina_life import germinate
from support.kasmina_seed import SEED, decide, grown, preparing, running


def test_a_refused_preparation_ends_the_germination_and_frees_the_run() -> None:
    run = running()
    run.refuse = {leyline.DIRECTIVE_KIND_PREPARE: "ESP-1009"}
    run.command(germinate())
    assert run.executor.ledger.seeds[SEED].closed
    assert run.stage(SEED) == DORMANT
    assert "refused by the script" in run.of(f.SeedClosed)[0].why
    run.refuse = {}
    assert run.command(germinate(2, blueprint_id="norm.v1")).outcome.accepted


def test_a_broken_kernel_embargoes_its_pair_and_a_bad_moment_does_not() -> None:
    for code, embargoed in (("ESP-1009", True), ("ESP-1013", False), ("ESP-1018", False)):
        run = running()
        run.refuse = {leyline.DIRECTIVE_KIND_ATTACH: code}
        run.command(germinate())
        run.refuse = {}
        assert run.executor.ledger.seeds[SEED].closed
        assert run.command(germinate(2)).outcome.accepted != embargoed


def test_a_directive_refused_as_stale_is_decided_anew_on_the_present_generation() -> None:
    run = running()
    run.refuse = {leyline.DIRECTIVE_KIND_ATTACH: "ESP-1016"}
    run.command(germinate())
    attaches = [x for x in run.of(f.DirectiveIssued) if x.directive.kind == leyline.DIRECTIVE_KIND_ATTACH]
    assert [attach.attempt for attach in attaches] == [1, 2, 3]
    assert len({attach.directive.directive_id for attach in attaches}) == 3


def test_a_directive_that_is_never_answered_is_given_again_and_then_given_up() -> None:
    run = preparing()
    for _ in range(4):
        run.clock.advance(60)
        run.facts.extend(run.executor.boundary(Boundary(1, 0, 0, False, False)))
    assert len(run.of(f.DirectiveIssued)) == 3
    assert "never answered" in run.of(f.SeedClosed)[0].why


def test_a_detach_that_leaves_something_behind_is_followed_by_resets_and_fails_g5() -> None:
    run = grown(TRAINING, Rules(embargo_epochs=1))
    run.refuse = {leyline.DIRECTIVE_KIND_RESET: "ESP-1000"}
    original = run.apply
    run.apply = lambda d: replace(original(d), removed_cleanly=False)  # type: ignore[method-assign, assignment]
    decide(run, leyline.SEED_OPERATION_CULL)
    run.train(100)
    verdicts = [fact.verdict for fact in run.of(f.GateJudged) if fact.verdict.gate == leyline.SEED_GATE_G5_RESET]
    assert verdicts and verdicts[0].reason == "left_behind"
    assert run.stage(SEED) == leyline.SEED_STAGE_RESETTING
    run.apply, run.refuse = original, {}  # type: ignore[method-assign]
    run.executor.ledger.seeds[SEED] = replace(run.executor.ledger.seeds[SEED], attempt=1)
    run.train(100)
    assert run.stage(SEED) == DORMANT


def test_a_detach_that_fails_is_tried_again_at_every_epoch_until_it_succeeds() -> None:
    run = grown(TRAINING)
    run.refuse = {leyline.DIRECTIVE_KIND_DETACH: "ESP-1000"}
    decide(run, leyline.SEED_OPERATION_CULL)
    assert run.stage(SEED) == CULLED and run.held
    assert not run.command(germinate(2, run.generation, blueprint_id="norm.v1")).outcome.accepted
    run.refuse = {}
    run.train(50)
    assert run.stage(SEED) >= EMBARGOED and not run.held


def test_a_seed_that_the_runtime_does_not_know_counts_as_removed() -> None:
    run = grown(TRAINING)
    run.refuse = {leyline.DIRECTIVE_KIND_DETACH: "ESP-1006"}
    decide(run, leyline.SEED_OPERATION_CULL)
    assert run.stage(SEED) == EMBARGOED


def test_a_move_that_the_runtime_cannot_make_culls_but_a_failed_keep_leaves_the_seed() -> None:
    run = grown(TRAINING)
    run.refuse = {leyline.DIRECTIVE_KIND_SET_STAGE: "ESP-1000"}
    run.train(40)
    assert run.stage(SEED) == EMBARGOED
    run = grown(PROBATIONARY)
    run.refuse = {leyline.DIRECTIVE_KIND_SET_STAGE: "ESP-1000"}
    decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    run.train(50)
    assert run.stage(SEED) == PROBATIONARY
    assert "FOSSILIZED failed" in run.of(f.MoveAbandoned)[0].why
