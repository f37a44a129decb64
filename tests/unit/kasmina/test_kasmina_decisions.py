"""What commands do to a seed that lives, and what they cannot do yet."""

from __future__ import annotations

import pytest

from esper_core import leyline
from kasmina import facts as f
from kasmina.blend import Blend
from kasmina.commands import Command, OptimizerAdjustment, Outcome
from kasmina.lifecycle import BLENDING, DORMANT, EMBARGOED, FOSSILIZED, PROBATIONARY, SHADOWING, TRAINING
from kasmina.operations import Supply
from kasmina.rules import Rules
from support.kasmina_life import RUN, germinate
from support.kasmina_seed import SEED, decide, grown, running, supplied


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


def test_an_optimizer_command_is_verified_and_left_to_the_trainer() -> None:
    run = running()

    def sent(factor: float) -> Outcome:
        payload = OptimizerAdjustment(factor, "")
        command = Command("c", RUN, leyline.COMMAND_TYPE_OPTIMIZER, 0, "", "", None, payload)
        return run.executor.command(command, Supply())[-1].outcome  # type: ignore[union-attr]

    assert sent(0.5).accepted
    refused = sent(3.0)
    assert "optimizer.learning_rate_factor" in refused.explanation and "at most 2" in refused.explanation
