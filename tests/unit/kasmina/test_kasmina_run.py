"""What a run does with commands, evidence and time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from kasmina import facts as f
from kasmina.blend import Blend
from kasmina.commands import Command, OptimizerAdjustment, Outcome
from kasmina.dwell import DwellPolicy
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
from kasmina.operations import Supply
from kasmina.rules import Rules
from kasmina.run import Boundary
from support.kasmina_life import RUN, SITE, TOTAL_STEPS, ScriptedRuntime, germinate, kernel_for, seed_command

SEED = f"{RUN}/hidden/1"


def running(rules: Rules | None = None) -> ScriptedRuntime:
    run = ScriptedRuntime(rules=rules or Rules())
    run.connect()
    return run


def grown(stage: int, rules: Rules | None = None) -> ScriptedRuntime:
    """Return a run with a seed in the given stage."""
    run = running(rules)
    run.command(germinate())
    while run.stage(SEED) < stage:
        run.train(5)
        assert run.step_now < TOTAL_STEPS
    return run


def decide(run: ScriptedRuntime, operation: int, **more: Any) -> Outcome:
    return run.command(seed_command(operation, SEED, run.generation, **more)).outcome


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


def test_dwells_follow_a_run_whose_steps_become_fewer() -> None:
    run = grown(TRAINING)
    run.measured["steps_remaining"] = TOTAL_STEPS // 4
    run.train(10)
    assert run.executor.ledger.total_steps == run.step_now + TOTAL_STEPS // 4


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


def test_fossilize_before_probation_is_refused_with_an_explanation() -> None:
    run = grown(SHADOWING)
    outcome = decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    assert not outcome.accepted and "probation" in outcome.explanation
    run = grown(TRAINING)
    outcome = decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    assert outcome.reject_reason == leyline.REJECT_REASON_VALIDATION_FAILED
    assert "from SHADOWING to PROBATIONARY" in outcome.explanation


def test_an_early_fossilize_waits_for_the_end_of_probation() -> None:
    run = grown(PROBATIONARY)
    outcome = decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    assert outcome.accepted and "if G4 still holds" in outcome.explanation
    assert run.stage(SEED) == PROBATIONARY
    run.train(35)
    assert run.stage(SEED) == FOSSILIZED
    assert run.of(f.StageMoved)[-1].command_id == outcome.command_id


def test_an_early_fossilize_does_not_save_a_seed_that_stops_helping() -> None:
    run = grown(PROBATIONARY)
    decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    run.contribution = -0.1
    run.train(35)
    assert run.stage(SEED) == EMBARGOED


@pytest.mark.parametrize("stage", [SHADOWING, PROBATIONARY])
def test_at_the_last_fence_a_seed_with_enough_probes_may_be_kept_at_once(stage: int) -> None:
    run = grown(stage)
    run.train(5, every=1) if stage == SHADOWING else None
    run.step_now += 1
    run.report(final=True)
    run.report(final=True)
    outcome = decide(run, leyline.SEED_OPERATION_FOSSILIZE)
    assert outcome.accepted
    assert run.stage(SEED) == FOSSILIZED


def test_advance_skips_the_dwell_but_no_gate() -> None:
    run = grown(TRAINING)
    run.train(5, every=1)
    assert decide(run, leyline.SEED_OPERATION_ADVANCE).accepted
    assert run.stage(SEED) == BLENDING
    run = grown(TRAINING)
    run.measured = {"gradient_norm": None}
    run.train(5, every=1)
    decide(run, leyline.SEED_OPERATION_ADVANCE)
    assert run.stage(SEED) == TRAINING


def test_cull_detaches_and_embargoes_the_pair() -> None:
    run = grown(BLENDING)
    assert decide(run, leyline.SEED_OPERATION_CULL).accepted
    assert run.stage(SEED) == EMBARGOED and not run.held
    again = run.command(germinate(2, run.generation)).outcome
    assert not again.accepted and "was culled at hidden and waits" in again.explanation
    other = run.command(germinate(3, run.generation, blueprint_id="norm.v1")).outcome
    assert other.accepted, "another blueprint may try"


@pytest.mark.parametrize("how", ["time", "epochs"])
def test_an_embargo_really_ends(how: str) -> None:
    rules = Rules(embargo_s=60.0 if how == "time" else 1e6, embargo_epochs=10**6 if how == "time" else 2)
    run = grown(TRAINING, rules)
    decide(run, leyline.SEED_OPERATION_CULL)
    assert run.stage(SEED) == EMBARGOED
    if how == "time":
        run.clock.advance(61)
        run.train(5)
    else:
        run.train(100)
    assert run.stage(SEED) == DORMANT
    assert [fact.verdict.gate for fact in run.of(f.GateJudged)][-1] == leyline.SEED_GATE_G5_RESET
    assert run.command(germinate(2, run.generation)).outcome.accepted
    assert run.of(f.SeedPlanted)[-1].seed_id == f"{RUN}/hidden/2"


def test_cancel_withdraws_what_was_not_attached_yet() -> None:
    run = running()
    facts = run.executor.command(*supplied(run))
    prepare = next(fact.directive for fact in facts if isinstance(fact, f.DirectiveIssued))
    outcome = decide(run, leyline.SEED_OPERATION_CANCEL)
    assert outcome.accepted
    late = run.apply(prepare)
    assert run.executor.result(late) == ()
    assert run.executor.ledger.live_seeds() == ()


def supplied(run: ScriptedRuntime) -> tuple[Command, Supply]:
    command = germinate()
    key = run.validator.kernel_key(command, run.executor.ledger)
    assert key is not None
    return command, Supply(run.catalogue.get("mlp_residual.v1"), key, kernel_for(key))


def test_set_blend_changes_the_ramp_under_way() -> None:
    run = grown(BLENDING)
    slower = Blend(leyline.BLEND_MODE_RESIDUAL, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 90, source="tamiyo")
    assert decide(run, leyline.SEED_OPERATION_SET_BLEND, blend=slower).accepted
    assert run.held[SEED].ramp == 90
    run.train(100)
    assert run.stage(SEED) == SHADOWING


def test_one_seed_at_a_time() -> None:
    run = grown(TRAINING)
    outcome = run.command(germinate(2, run.generation)).outcome
    assert not outcome.accepted and "holds" in outcome.explanation


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


def test_a_directive_refused_as_stale_is_decided_anew_on_the_present_generation() -> None:
    run = running()
    run.refuse = {leyline.DIRECTIVE_KIND_ATTACH: "ESP-1016"}
    run.command(germinate())
    attaches = [x for x in run.of(f.DirectiveIssued) if x.directive.kind == leyline.DIRECTIVE_KIND_ATTACH]
    assert [attach.attempt for attach in attaches] == [1, 2, 3]
    assert len({attach.directive.directive_id for attach in attaches}) == 3


def test_a_directive_that_is_never_answered_is_given_again_and_then_given_up() -> None:
    run = running()
    command, supply = supplied(run)
    run.facts.extend(run.executor.command(command, supply))
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


def test_evidence_of_a_seed_that_is_not_on_record_is_refused() -> None:
    run = grown(TRAINING)
    stray = replace(run.evidence(run.held[SEED]), seed_id=f"{RUN}/hidden/9")
    with pytest.raises(StateConflictError, match="not on record"):
        run.executor.evidence(stray)


@pytest.mark.parametrize(("field", "value"), [("total_steps", 0), ("steps_per_epoch", 0), ("sites", (SITE, SITE))])
def test_a_greeting_without_what_dwell_is_measured_in_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        ScriptedRuntime().connect(**{field: value})
    assert error.value.field == field


def test_an_optimizer_command_is_verified_and_left_to_the_trainer() -> None:
    run = running()

    def sent(factor: float) -> Outcome:
        payload = OptimizerAdjustment(factor, "")
        command = Command("c", RUN, leyline.COMMAND_TYPE_OPTIMIZER, 0, "", "", None, payload)
        return run.executor.command(command, Supply())[-1].outcome  # type: ignore[union-attr]

    assert sent(0.5).accepted
    refused = sent(3.0)
    assert "optimizer.learning_rate_factor" in refused.explanation and "at most 2" in refused.explanation
