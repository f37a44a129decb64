"""Commands that cannot be carried out: what is wrong is named with what is allowed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from esper_core import leyline
from esper_core.clocks import ManualClock
from kasmina.blend import Blend
from kasmina.catalogue import Catalogue
from kasmina.commands import Command
from kasmina.validator import CommandValidator, Validation
from kasmina.wanting import wanted_keys
from support.kasmina_life import SITE, ScriptedRuntime, catalogue_item, full_catalogue, germinate, seed_command
from support.kasmina_seed import SEED


def validation(command: Command, catalogue: Catalogue | None = None, **greeting: Any) -> Validation:
    run = ScriptedRuntime()
    if catalogue is not None:
        run.validator = CommandValidator(catalogue, run.rules)
    run.connect(**greeting)
    return run.validator.validate(command, run.executor.ledger, run.clock.wall())


@pytest.mark.req("KAS-23")
@pytest.mark.parametrize(
    ("command", "field", "allowed"),
    [
        (germinate(site="attic"), "target_site", "hidden"),
        (germinate(blueprint_id="mlp_residual.v9"), "seed_operation.blueprint_id", "mlp_residual.v1"),
        (germinate(blueprint_id="low_rank_linear.v1"), "seed_operation.blueprint_id", "mlp_residual.v1, norm.v1"),
        (germinate(parameters={"expansion": 1e9}), "seed_operation.parameters.expansion", "from"),
        (germinate(parameters={"colour": "red"}), "seed_operation.parameters.colour", ""),
        (
            germinate(blend=Blend(leyline.BLEND_MODE_CONVEX, 1.5, leyline.ALPHA_SCHEDULE_LINEAR, 0, 10)),
            "seed_operation.blend.target_alpha",
            "above 0, at most 1",
        ),
        (
            germinate(blend=Blend(leyline.BLEND_MODE_CHANNEL, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 10)),
            "seed_operation.blend.alpha_vec",
            "at most 64",
        ),
        (
            germinate(blend=Blend(leyline.BLEND_MODE_CONFIDENCE, 1.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 10)),
            "seed_operation.blend.mode",
            "BLEND_MODE_CONVEX",
        ),
        (seed_command(leyline.SEED_OPERATION_CULL, SEED, 0), "target_seed_id", ""),
        (replace(germinate(), payload=None), "payload", "seed_operation"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(command: Command, field: str, allowed: str) -> None:
    answer = validation(command)
    assert answer.reason == leyline.REJECT_REASON_VALIDATION_FAILED
    assert [problem.field for problem in answer.problems] == [field]
    assert allowed in answer.problems[0].allowed
    assert field in answer.explanation


OFFERING = replace(SITE, contract=replace(SITE.contract, inputs=16))
EVERYTHING = ("widen.v1", "norm.v1")


def test_a_blueprint_that_reads_inputs_needs_a_site_that_offers_them() -> None:
    widening = germinate(blueprint_id="widen.v1")
    refused = validation(widening, blueprint_ids=EVERYTHING)
    assert [problem.field for problem in refused.problems] == ["seed_operation.contract.inputs"]
    assert "widen.v1" in refused.explanation
    assert validation(widening, blueprint_ids=EVERYTHING, sites=(OFFERING,)).ok


def test_a_site_that_names_blueprints_admits_no_others() -> None:
    choosy = replace(OFFERING, blueprint_ids=("widen.v1",))
    refused = validation(germinate(blueprint_id="norm.v1"), blueprint_ids=EVERYTHING, sites=(choosy,))
    assert [problem.field for problem in refused.problems] == ["seed_operation.blueprint_id"]
    assert validation(germinate(blueprint_id="widen.v1"), blueprint_ids=EVERYTHING, sites=(choosy,)).ok


def test_only_kernels_that_a_site_admits_are_prefetched() -> None:
    sites = (SITE, replace(OFFERING, name="readout", blueprint_ids=("widen.v1",)))
    run = ScriptedRuntime()
    greeting = replace(run.greeting(), blueprint_ids=EVERYTHING, sites=sites)
    wanted = {(key.blueprint_id, key.contract.inputs) for key in wanted_keys(greeting, full_catalogue())}
    assert wanted == {("norm.v1", 0), ("widen.v1", 16)}


def test_a_command_for_another_generation_is_stale() -> None:
    answer = validation(germinate(generation=3))
    assert answer.reason == leyline.REJECT_REASON_STALE_GENERATION
    assert answer.problems[0].allowed == "0"


def test_a_command_past_its_execution_deadline_is_stale() -> None:
    late = replace(germinate(), deadline=ManualClock().wall() - timedelta(seconds=1))
    assert validation(late).reason == leyline.REJECT_REASON_STALE_COMMAND


def test_fixtures_and_quarantined_blueprints_are_never_used() -> None:
    fixture = "nan_injection.v1"
    answer = validation(germinate(blueprint_id=fixture), blueprint_ids=(fixture,))
    assert "fixture" in answer.explanation
    catalogue = full_catalogue()
    catalogue.put(catalogue_item(quarantine_reason="it oscillates"))
    assert "it oscillates" in validation(germinate(), catalogue).explanation


def test_a_restricted_blueprint_is_refused_with_the_setting_that_would_allow_it() -> None:
    catalogue = full_catalogue()
    catalogue.put(catalogue_item(handling_restricted=True))
    assert "growth.allow_restricted" in validation(germinate(), catalogue).explanation
    assert validation(germinate(), catalogue, allow_restricted=True).ok


def test_before_urza_was_heard_nothing_germinates() -> None:
    assert "not told its blueprints yet" in validation(germinate(), Catalogue()).explanation


@pytest.mark.req("KAS-23")
def test_several_problems_are_told_together() -> None:
    wrong = germinate(
        parameters={"colour": "red"},
        blend=Blend(leyline.BLEND_MODE_CONVEX, 2.0, leyline.ALPHA_SCHEDULE_LINEAR, 0, 10),
    )
    assert len(validation(wrong).problems) == 2
    assert SITE.name == "hidden"
