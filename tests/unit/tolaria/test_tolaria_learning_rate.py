"""Learning-rate policies over the budget, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_core.errors import DependencyViolationError, ValidationError
from esper_core.leyline import LearningRateSpec
from support.tolaria_runs import letter_spec, open_letter
from tolaria.service.submission import check_spec
from tolaria.training.learning_rate import PATIENCE, THAW, LearningRate, LearningRateState
from tolaria.training.optimizer import build_optimizer, group_view
from tolaria.training.plan import LearningRatePlan, OptimizerPlan
from tolaria.training.step import training_step

WEIGHT = [torch.nn.Parameter(torch.ones(2))]
fractions = st.floats(0.0, 1.0)


def optimizer(rate: float = 0.1) -> torch.optim.Optimizer:
    return build_optimizer(OptimizerPlan("adam", rate), WEIGHT)


@pytest.mark.parametrize(
    ("policy", "fraction", "factor"),
    [
        ("constant", 0.7, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.55),
        ("cosine", 1.0, 0.1),
        ("step", 0.49, 1.0),
        ("step", 0.5, 0.1),
        ("step", 0.75, 0.1),
        ("plateau", 0.3, 1.0),
    ],
)
def test_policies_take_their_published_values(policy: str, fraction: float, factor: float) -> None:
    assert LearningRate(LearningRatePlan(policy, floor=0.1)).factor(fraction) == pytest.approx(factor)


@pytest.mark.req("TOL-9")
@given(fraction=fractions)
def test_cosine_holds_its_floor_after_the_end(fraction: float) -> None:
    rate = LearningRate(LearningRatePlan("cosine", floor=0.2))
    assert rate.factor(1.0 + fraction) == pytest.approx(0.2)


@pytest.mark.req("TOL-9")
@pytest.mark.parametrize(("after", "factors"), [("hold", [1.0, 0.5, 0.0, 0.0, 0.0]), ("restart", [1, 0.5, 0, 0.5, 0])])
def test_cosine_holds_or_restarts_after_its_period(after: str, factors: list[float]) -> None:
    rate = LearningRate(LearningRatePlan("cosine", period=0.5, after_period=after))
    assert [rate.factor(part / 4) for part in range(5)] == pytest.approx(factors)


@pytest.mark.req("TOL-9")
def test_a_restarted_cosine_begins_at_the_full_rate_and_never_ends_a_run_with_it() -> None:
    rate = LearningRate(LearningRatePlan("cosine", warmup_fraction=0.2, floor=0.1, period=0.25, after_period="restart"))
    steps = [rate.factor(step / 1000) for step in range(200, 1001)]
    assert [round(steps[end], 6) for end in (200, 400, 600, 800)] == [0.1] * 4
    assert all(steps[end + 1] > 0.999 for end in (200, 400, 600))


@pytest.mark.req("TOL-12")
def test_a_share_is_one_of_optimizer_steps_or_of_epochs_as_the_budget_says() -> None:
    by_steps = open_letter(letter_spec(max_steps=400))
    by_epochs = open_letter(letter_spec(max_steps=0, max_epochs=2))
    per_epoch = by_epochs.sampler.batches_per_epoch
    for done in (0, 7, per_epoch - 1, per_epoch, 2 * per_epoch - 1):
        by_steps.counters.step = by_epochs.counters.step = done
        assert by_steps.fraction_after_step == (done + 1) / 400
        assert by_epochs.fraction_after_step == pytest.approx((done + 1) / (2 * per_epoch))


@pytest.mark.req("TOL-12")
def test_the_last_step_of_a_budget_reaches_the_end_of_the_policy() -> None:
    session = open_letter(letter_spec(max_steps=4, learning_rate=LearningRateSpec(policy="cosine", floor=0.1)))
    rates = []
    while session.affords_step():
        training_step(session, 4.0)
        rates.append(group_view(session.optimizer, "host")["lr"] / session.plan.optimizer.learning_rate)
    assert rates == pytest.approx([session.learning_rate.factor(step / 4) for step in (1, 2, 3, 4)])
    assert rates[-1] == pytest.approx(0.1)


def test_seeds_learn_at_their_share_of_the_hosts_rate() -> None:
    adam = optimizer()
    adam.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "base_lr": 0.1, "seed_id": "a"})
    for plan, expected in ((LearningRatePlan(), 0.05), (LearningRatePlan(seed_factor=2.0), 0.2)):
        LearningRate(plan).apply(adam, 0.5)
        assert [group_view(adam, name)["lr"] for name in ("host", "a")] == pytest.approx([0.1, expected])
    for wrong in (0.0, -1.0, 2.5, float("nan")):
        with pytest.raises(ValidationError, match="Seeds cannot learn"):
            LearningRate(LearningRatePlan(seed_factor=wrong))


def test_host_and_seeds_may_follow_policies_of_their_own() -> None:
    adam = optimizer()
    adam.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "base_lr": 0.1, "seed_id": "a"})
    rate = LearningRate(LearningRatePlan("cosine", groups={"seeds": "plateau"}, seed_factor=1.0))
    for _ in range(PATIENCE + 1):
        rate.observe(1.0)
    rate.apply(adam, 0.5)
    assert [group_view(adam, name)["lr"] for name in ("host", "a")] == pytest.approx([0.05, 0.05])
    rate.apply(adam, 1.0)
    assert [group_view(adam, name)["lr"] for name in ("host", "a")] == pytest.approx([0.0, 0.05])
    assert rate.factor(1.0, "a") == 0.5


@pytest.mark.req("TOL-10")
def test_warm_up_rises_from_its_floor() -> None:
    rate = LearningRate(LearningRatePlan("constant", warmup_fraction=0.5, warmup_floor=0.2))
    assert [rate.factor(fraction) for fraction in (0.0, 0.25, 0.5)] == pytest.approx([0.2, 0.6, 1.0])
    assert LearningRate(LearningRatePlan("constant", warmup_fraction=0.5)).factor(0.0) == 0.0


@pytest.mark.req("TOL-11")
def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        LearningRate(LearningRatePlan("triangle"))
    assert refused.value.field == "spec.learning_rate.policy" and "cosine" in refused.value.allowed


@pytest.mark.req("TOL-11")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"groups": {"seeds": "triangle"}}, "groups.policy"),
        ({"groups": {"head": "cosine"}}, "groups.group"),
        ({"after_period": "bounce"}, "after_period"),
        ({"period": 0.0}, "period"),
        ({"period": math.nan}, "period"),
        ({"warmup_floor": 1.1}, "warmup_floor"),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LearningRate(LearningRatePlan("cosine", **changes))
    assert refused.value.field == f"spec.learning_rate.{field}"


@pytest.mark.req("TOL-10", "TOL-9")
def test_a_request_reaches_the_plan() -> None:
    given = LearningRateSpec(policy="cosine", warmup_fraction=0.1, warmup_floor=0.2, period=0.5, after_period="restart")
    given.groups.add(group="seeds", policy="constant")
    plan = open_letter(letter_spec(learning_rate=given)).plan.learning_rate
    assert (plan.warmup_floor, plan.period, plan.after_period) == (0.2, 0.5, "restart")
    assert plan.groups == {"seeds": "constant"}
    given.groups.add(group="seeds", policy="cosine")
    with pytest.raises(ValidationError):
        open_letter(letter_spec(learning_rate=given))
    with pytest.raises(ValidationError):
        check_spec(letter_spec(learning_rate=given))


@pytest.mark.req("TOL-8")
def test_a_group_without_a_rate_raises() -> None:
    bare = torch.optim.SGD(WEIGHT, lr=0.1)
    with pytest.raises(DependencyViolationError, match="base_lr"):
        LearningRate(LearningRatePlan()).apply(bare, 0.5)


def test_plateau_halves_after_stale_passes_and_never_below_its_floor() -> None:
    rate = LearningRate(LearningRatePlan("plateau", floor=0.2))
    rate.observe(1.0)
    factors = []
    for _ in range(4 * PATIENCE):
        rate.observe(1.0)
        factors.append(rate.factor(0.5))
    assert factors[PATIENCE - 1] == 0.5 and factors[2 * PATIENCE - 1] == 0.25 and factors[-1] == 0.2


def test_rates_are_scaled_for_all_and_for_one_group() -> None:
    rate, adam = LearningRate(LearningRatePlan()), optimizer()
    rate.rescale(0.5)
    rate.rescale(0.5, "host")
    rate.apply(adam, 0.1)
    assert group_view(adam, "host")["lr"] == pytest.approx(0.025)
    with pytest.raises(ValidationError):
        rate.rescale(3.0)


@pytest.mark.parametrize(("later", "share"), [(0.0, 0.1), (THAW / 2, 0.55), (THAW, 1.0), (0.5, 1.0)])
def test_a_host_that_stood_still_gathers_speed_and_its_seeds_do_not_wait(later: float, share: float) -> None:
    seed = torch.nn.Parameter(torch.ones(2))
    rate, adam = LearningRate(LearningRatePlan("constant", seed_factor=0.5)), optimizer(0.1)
    adam.add_param_group({"params": [seed], "seed_id": "seed", "base_lr": 0.1})
    rate.thaw(0.3, "seed")
    rate.apply(adam, 0.3 + later)
    assert group_view(adam, "host")["lr"] == pytest.approx(0.1 * share)
    assert group_view(adam, "seed")["lr"] == pytest.approx(0.05)


def test_only_the_seed_that_held_the_host_ends_its_thaw() -> None:
    rate = LearningRate(LearningRatePlan("constant"))
    rate.thaw(0.3, "first")
    rate.forget_thaw("second")
    assert rate.state.thawed_at == 0.3
    rate.forget_thaw("first")
    assert rate.state == LearningRateState()


@given(
    st.builds(
        LearningRateState,
        scale=st.floats(0.01, 2),
        group_scales=st.dictionaries(st.sampled_from(["host", "seed"]), st.floats(0.01, 2)),
        plateau=st.floats(0.01, 1),
        best_loss=st.one_of(st.just(float("inf")), st.floats(0, 10)),
        stale_passes=st.integers(0, 5),
        thawed_at=st.one_of(st.none(), fractions),
        thawed_by=st.sampled_from(["", "seed"]),
    )
)
def test_the_state_survives_a_checkpoint(state: LearningRateState) -> None:
    assert LearningRateState.from_dict(state.to_dict()) == state


@pytest.mark.req("TOL-15")
def test_a_view_of_a_group_cannot_be_written_through() -> None:
    view = group_view(optimizer(), "host")
    with pytest.raises(TypeError):
        view["lr"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("plan", [OptimizerPlan("lion", 0.1), OptimizerPlan("adam", 0.0), OptimizerPlan("sgd", 1, -1)])
def test_a_wrong_optimizer_is_refused_with_its_field(plan: OptimizerPlan) -> None:
    with pytest.raises(ValidationError) as refused:
        build_optimizer(plan, WEIGHT)
    assert refused.value.field.startswith("spec.optimizer.")
