"""The rule policies: when they grow, where, with what, and what they do about a seed whose fate is open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper_core import leyline
from esper_core.blueprints import SiteContract
from esper_core.errors import NotFoundError
from support.tamiyo_parts import RUN, cards, memory_of, plan, seed, seen, validation
from tamiyo.actions import Action
from tamiyo.catalogue import BlueprintSnapshot
from tamiyo.evaluation import Rulebook, ramp_steps
from tamiyo.memory import RunMemory
from tamiyo.observation import Observation, SiteView
from tamiyo.policies import POLICIES, GrowthRules, policy_named
from tamiyo.policies.heuristic import propose as heuristic
from tamiyo.policies.heuristic import relative_gain
from tamiyo.policies.schedule import propose as schedule
from tamiyo.settings import TamiyoSettings

SNAPSHOT = BlueprintSnapshot(cards(), 0.0)
RULES = GrowthRules()
FOSSILIZED, CULLED = leyline.SEED_STAGE_FOSSILIZED, leyline.SEED_STAGE_CULLED


def proposed(memory: RunMemory, observation: Observation, now_s: float = 0.0, rules: GrowthRules = RULES) -> Action:
    """Let `schedule` look at one more packet."""
    memory.take(observation, now_s)
    return schedule(memory, observation, SNAPSHOT, rules, now_s)


def test_nothing_grows_before_the_window() -> None:
    assert proposed(memory_of(), seen(10)).reason == "outside_growth_window"


def test_the_first_seed_waits_for_its_fraction() -> None:
    assert proposed(memory_of(), seen(60)).reason == "waiting_for_schedule"
    assert proposed(memory_of(), seen(80)).kind == "GERMINATE"


def test_nothing_grows_past_half_of_the_budget() -> None:
    assert proposed(memory_of(), seen(501)).reason == "outside_growth_window"


def test_flops_rule_where_they_are_bounded() -> None:
    memory = memory_of(of=plan(flops_budget=1000))
    assert proposed(memory, seen(1, flops_used=80)).kind == "GERMINATE"


def test_letter_grows_at_the_stem_first_and_then_at_the_hidden_layer() -> None:
    memory = memory_of()
    first = proposed(memory, seen(80))
    assert (first.site, first.blueprint_id, dict(first.parameters)) == ("stem", "mlp_residual.v1", {"expansion": 1.75})
    grown = seed(FOSSILIZED, "stem")
    second = proposed(memory, seen(180, seeds=(grown,), parameters=1998))
    assert (second.site, second.blueprint_id) == ("hidden1", "mlp_residual.v1")


def test_a_narrow_layer_is_widened_where_it_offers_its_input() -> None:
    narrow = SiteView("hidden1", SiteContract("features", 24, inputs=16), 1)
    readout = SiteView("readout", SiteContract("features", 26, inputs=24), 2, ("widen.v1",))
    stem = plan().sites[0]
    names = (*plan().blueprint_ids, "widen.v1")
    memory = memory_of(of=plan(sites=(stem, narrow, readout), blueprint_ids=names))
    action = proposed(memory, seen(80))
    assert (action.site, action.blueprint_id) == ("hidden1", "widen.v1")
    kept = seed(FOSSILIZED, "hidden1", blueprint_id="widen.v1")
    second = proposed(memory, seen(180, seeds=(kept,), parameters=2066))
    assert (second.site, second.blueprint_id) == ("readout", "widen.v1"), "another place before the same again"
    pairs = {(one.site, one.blueprint_id) for one in action.candidates}
    assert ("hidden1", "widen.v1") in pairs and ("stem", "widen.v1") not in pairs
    assert {name for site, name in pairs if site == "readout"} == {"widen.v1"}


def test_a_growth_step_never_more_than_doubles_the_model() -> None:
    action = proposed(memory_of(), seen(80))
    assert all(one.parameters_added <= 1058 for one in action.candidates)


def test_one_dimensional_channels_get_a_convolution() -> None:
    site = SiteView("conv2", SiteContract("channels_1d", 12, length=40), 1)
    names = ("norm.v1", "depthwise_conv1d.v1", "conv1d_residual.v1")
    memory = memory_of(of=plan(sites=(site,), blueprint_ids=names))
    assert proposed(memory, seen(80, parameters=5000)).blueprint_id == "conv1d_residual.v1"


def test_the_parameter_budget_is_kept() -> None:
    tight = memory_of(of=plan(parameters_budget=1100))
    action = proposed(tight, seen(80))
    assert action.kind == "GERMINATE"
    assert action.candidates[0].parameters_added <= 42
    spent = memory_of(of=plan(parameters_budget=1058))
    assert proposed(spent, seen(80)).reason == "budget_exhausted"


def test_the_seeds_budget_is_kept() -> None:
    memory = memory_of(of=plan(seeds_budget=1))
    assert proposed(memory, seen(200, seeds=(seed(FOSSILIZED),))).reason == "budget_exhausted"


def test_no_candidate_means_waiting_with_that_reason() -> None:
    memory = memory_of(of=plan(blueprint_ids=("conv2d_residual.v1",)))
    assert proposed(memory, seen(80)).reason == "no_candidates"


def test_what_the_library_refuses_is_no_candidate() -> None:
    refused = {name: replace(card, refusal="quarantined") for name, card in cards().items()}
    memory = memory_of(seen(80))
    assert schedule(memory, seen(80), BlueprintSnapshot(refused, 0.0), RULES, 0.0).reason == "no_candidates"


def test_one_seed_after_the_other() -> None:
    memory = memory_of()
    blending = seed(leyline.SEED_STAGE_BLENDING)
    assert proposed(memory, seen(300, seeds=(blending,))).reason == "seed_in_progress"


def test_a_germination_under_way_is_waited_for_and_then_given_up() -> None:
    memory = memory_of()
    action = proposed(memory, seen(80))
    memory.note(action, "c1", 0.0, 80, 0.08)
    assert proposed(memory, seen(81), now_s=10.0).reason == "seed_in_progress"
    again = proposed(memory, seen(82), now_s=31.0)
    assert again.kind == "GERMINATE"
    assert (again.site, again.blueprint_id) != (action.site, action.blueprint_id)


def test_a_culled_pair_is_left_alone_for_a_while() -> None:
    memory = memory_of(seen(100, seeds=(seed(),)))
    action = proposed(memory, seen(200, seeds=()))
    assert action.kind == "GERMINATE"
    assert (action.site, action.blueprint_id) != ("stem", "mlp_residual.v1")
    assert memory.culled[0].site == "stem"


def test_a_seed_that_helps_is_kept() -> None:
    helpful = seed(contribution=0.1, contribution_low=0.05, contribution_high=0.15)
    action = proposed(memory_of(), seen(300, seeds=(helpful,)))
    assert (action.kind, action.seed_id) == ("FOSSILIZE", helpful.seed_id)


def test_a_seed_that_does_not_help_is_removed() -> None:
    useless = seed(contribution=-0.1, contribution_low=-0.2, contribution_high=0.0)
    assert proposed(memory_of(), seen(300, seeds=(useless,))).kind == "CULL"


def test_a_seed_is_not_judged_before_its_probation() -> None:
    early = seed(leyline.SEED_STAGE_SHADOWING, contribution=-0.1, contribution_low=-0.2, contribution_high=-0.05)
    assert proposed(memory_of(), seen(300, seeds=(early,))).reason == "seed_in_progress"


def test_a_seed_that_made_itself_necessary_without_helping_is_removed() -> None:
    memory = memory_of(seen(200, validation=validation(200, 1.0)))
    leaned_on = seed(age_steps=80, contribution=0.3, contribution_low=0.2, contribution_high=0.4)
    action = proposed(memory, seen(300, seeds=(leaned_on,), validation=validation(300, 1.2)))
    assert action.kind == "CULL"
    assert "without helping" in action.rationale


def test_a_loss_that_leaps_for_a_single_pass_is_not_held_against_a_seed() -> None:
    memory = memory_of(seen(200, validation=validation(200, 1.0)), seen(240, validation=validation(240, 0.8)))
    memory.take(seen(260, validation=validation(260, 0.8)), 0.0)
    leaned_on = seed(age_steps=80, contribution=0.3, contribution_low=0.2, contribution_high=0.4)
    action = proposed(memory, seen(300, seeds=(leaned_on,), validation=validation(300, 1.2)))
    assert action.kind == "FOSSILIZE"


def test_a_settling_command_is_not_repeated_at_every_packet() -> None:
    helpful = seed(contribution=0.1, contribution_low=0.05, contribution_high=0.15)
    memory = memory_of()
    memory.note(proposed(memory, seen(300, seeds=(helpful,))), "c1", 0.0, 300, 0.3)
    assert proposed(memory, seen(301, seeds=(helpful,)), now_s=0.5).reason == "command_pending"
    assert proposed(memory, seen(302, seeds=(helpful,)), now_s=5.5).kind == "FOSSILIZE"


def test_at_the_last_fence_it_is_repeated_sooner() -> None:
    helpful = seed(contribution=0.1, contribution_low=0.05, contribution_high=0.15)
    memory, fence = memory_of(), seen(1000, seeds=(helpful,), final=True)
    memory.note(proposed(memory, fence), "c1", 0.0, 1000, 1.0)
    assert proposed(memory, fence, now_s=1.0).reason == "command_pending"
    assert proposed(memory, fence, now_s=2.0).kind == "FOSSILIZE"


def test_a_ramp_takes_its_share_of_the_flops_that_are_left_per_step() -> None:
    memory = memory_of(of=plan(flops_budget=1_000_000))
    action = proposed(memory, seen(80, flops_used=80_000))
    assert action.candidates[0].parameters_added == 940
    assert ramp_steps(memory, action) == round(0.05 * 1000 * 1058 / 1998)


def test_at_the_last_fence_every_seed_is_settled() -> None:
    shadowing = leyline.SEED_STAGE_SHADOWING
    proved = seed(shadowing, contribution=0.1, contribution_low=0.05, contribution_high=0.15)
    unproved = seed(leyline.SEED_STAGE_TRAINING)
    assert proposed(memory_of(), seen(1000, seeds=(proved,), final=True)).kind == "FOSSILIZE"
    assert proposed(memory_of(), seen(1000, seeds=(unproved,), final=True)).kind == "CULL"
    assert proposed(memory_of(), seen(1000, final=True)).reason == "run_ending"


def test_the_last_fence_gives_probes_some_time() -> None:
    memory, unproved = memory_of(), seed(leyline.SEED_STAGE_SHADOWING)
    assert proposed(memory, seen(1000, seeds=(unproved,), final=True)).kind == "WAIT"
    assert proposed(memory, seen(1000, seeds=(unproved,), final=True), now_s=4.5).kind == "CULL"


def flat_memory(loss_of_step: float = 0.0, validation_loss: float = 1.05) -> RunMemory:
    """Return a run whose loss moves by so much per step."""
    memory = RunMemory(RUN, plan=plan(policy="heuristic"))
    for step in range(100, 200):
        memory.take(seen(step, loss_ewma=1.0 + loss_of_step * (step - 200)), 0.0)
    memory.take(seen(200, loss_ewma=1.0, validation=validation(200, validation_loss)), 0.0)
    return memory


def heuristically(memory: RunMemory) -> Action:
    """Let `heuristic` look at the memory's last packet."""
    assert memory.now is not None
    return heuristic(memory, memory.now, SNAPSHOT, RULES, 0.0)


def test_the_heuristic_grows_when_the_loss_is_flat_and_validation_follows() -> None:
    assert heuristically(flat_memory()).kind == "GERMINATE"


def test_the_heuristic_waits_while_the_loss_still_falls() -> None:
    assert heuristically(flat_memory(loss_of_step=-0.02)).reason == "still_improving"


def test_the_heuristic_does_not_feed_overfitting() -> None:
    assert heuristically(flat_memory(validation_loss=1.5)).reason == "overfitting"


def test_the_heuristic_waits_for_evidence() -> None:
    memory = memory_of(seen(200), of=plan(policy="heuristic"))
    assert heuristically(memory).reason == "waiting_for_evidence"


def test_the_slope_is_measured_over_the_window() -> None:
    gain = relative_gain(flat_memory(loss_of_step=-0.002), 0.05)
    assert gain == pytest.approx(0.1 / 1.05, rel=0.05)


@pytest.mark.parametrize(("points", "told"), [(8, True), (7, False)])
def test_where_steps_are_dear_the_slope_is_that_of_the_last_eight_points(points: int, told: bool) -> None:
    memory = RunMemory(RUN, plan=plan(policy="heuristic"))
    for step in range(200 - 20 * (points - 1), 201, 20):
        memory.take(seen(step, loss_ewma=1.0 - 0.002 * (step - 200)), 0.0)
    gain = relative_gain(memory, 0.05)
    assert gain == (pytest.approx(0.1 / 1.14, rel=0.01) if told else None)


def test_every_policy_states_its_version() -> None:
    assert {name: policy.version for name, policy in POLICIES.items()} == {
        "schedule": "schedule-1.0.0",
        "heuristic": "heuristic-1.1.0",
    }
    with pytest.raises(NotFoundError, match="schedule, heuristic"):
        policy_named("learned")


def test_what_is_set_when_nothing_is_set_is_what_the_rules_say() -> None:
    assert TamiyoSettings.model_construct().rulebook() == Rulebook()
