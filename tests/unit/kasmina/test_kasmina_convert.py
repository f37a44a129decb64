"""Between the domain and its messages nothing is lost, and what is absent stays absent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.errors import ValidationError
from kasmina.blend import Blend, check_blend, completed, default_blend
from kasmina.convert.catalogue import item_from_message
from kasmina.convert.commands import blend_from_message, blend_to_message, command_from_message
from kasmina.convert.evidence import evidence_from_message, evidence_to_message
from kasmina.convert.runs import responses_of
from kasmina.convert.seeds import record_to_message
from kasmina.lifecycle import PROBATIONARY
from support.kasmina_life import RUN, ScriptedRuntime, germinate

SEED = f"{RUN}/hidden/1"
PLAIN = default_blend(50)


def on_probation() -> ScriptedRuntime:
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    while run.stage(SEED) < PROBATIONARY:
        run.train(5)
    return run


def test_evidence_survives_the_wire_and_absent_numbers_stay_absent() -> None:
    evidence = on_probation().executor.ledger.seeds[SEED].evidence
    assert evidence is not None and evidence.contribution is not None
    assert evidence_from_message(evidence_to_message(evidence)) == evidence
    bare = replace(evidence, gradient_norm=None, loss=None, contribution=None, improvement=None)
    assert evidence_from_message(evidence_to_message(bare)) == bare
    zero = replace(bare, loss=0.0)
    assert evidence_from_message(evidence_to_message(zero)).loss == 0.0


@pytest.mark.req("KAS-21")
def test_a_blend_survives_the_wire() -> None:
    rich = Blend(leyline.BLEND_MODE_CONFIDENCE, 0.5, leyline.ALPHA_SCHEDULE_COSINE, 3, 9, (), 4.0, 0.1, 0.2, 0.9, True)
    for blend in (PLAIN, rich, replace(PLAIN, alpha_vec=(0.5, 1.0))):
        assert blend_from_message(blend_to_message(blend)) == blend


@pytest.mark.req("KAS-21")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mode": 9}, "blend.mode"),
        ({"target_alpha": float("nan")}, "blend.target_alpha"),
        ({"schedule": 0}, "blend.schedule"),
        ({"start_steps": 9, "end_steps": 3}, "blend.end_steps"),
        ({"mode": leyline.BLEND_MODE_CHANNEL, "alpha_vec": (1.0,)}, "blend.alpha_vec"),
        ({"mode": leyline.BLEND_MODE_CHANNEL, "alpha_vec": (1.0, -1.0)}, "blend.alpha_vec[1]"),
        ({"mode": leyline.BLEND_MODE_CONFIDENCE, "gate_k": 1.0}, "blend.gate_tau"),
    ],
)
def test_a_blend_that_cannot_be_carried_out_names_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        check_blend(replace(PLAIN, **changes), channels=2)  # type: ignore[arg-type]
    assert error.value.field == field


def test_a_confidence_blend_needs_its_bounds_in_order() -> None:
    blend = Blend(leyline.BLEND_MODE_CONFIDENCE, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 9, (), 4.0, 0.1, 0.9, 0.2)
    with pytest.raises(ValidationError, match="at most alpha_hi"):
        check_blend(blend, channels=2)


def test_a_blend_without_a_ramp_gets_the_default_length() -> None:
    assert completed(replace(PLAIN, start_steps=4, end_steps=0), 30).end_steps == 34
    assert completed(PLAIN, 30) == PLAIN


def test_every_blueprint_of_the_catalogue_survives_the_wire() -> None:
    for blueprint in load_catalogue():
        item = item_from_message(descriptor(blueprint))
        assert item.blueprint.complete({}) == blueprint.complete({})
        assert item.blueprint.site_kinds == blueprint.site_kinds
        assert bool(item.ineligible()) == (blueprint.quarantine_only or blueprint.approval_required)


def test_a_payload_that_is_the_trainers_keeps_its_name() -> None:
    message = leyline.AdaptationCommand(command_id="c", rollback=leyline.CommandRollback(full=True))
    payload = command_from_message(message).payload
    assert payload is not None and getattr(payload, "name", "") == "rollback"
    assert command_from_message(leyline.AdaptationCommand(command_id="c")).payload is None


def test_the_runtime_hears_the_outcome_before_the_directives_that_follow_from_it() -> None:
    run = ScriptedRuntime()
    run.connect()
    run.command(germinate())
    kinds = [response.WhichOneof("response") for response in responses_of(run.facts)]
    assert kinds[0] == "outcome"
    assert {"directive", "gate", "transition"} <= set(kinds)


def test_whoever_asks_about_a_seed_gets_its_whole_way() -> None:
    run = on_probation()
    record = record_to_message(run.executor.ledger.seeds[SEED], run.executor.ledger, 0.25)
    leyline.validate(record)
    assert [move.to_stage for move in record.transitions] == [2, 3, 4, 5, 6]
    assert record.gates[0].gate == leyline.SEED_GATE_G0_SANITY
    assert record.state.contribution_low == pytest.approx(0.04)
    assert record.state.risk_score == 0.25
    assert record.last_evidence.contribution.examples == 1024
    assert record.commands[0].accepted
