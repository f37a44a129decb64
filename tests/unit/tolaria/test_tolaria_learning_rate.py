"""Learning-rate policies over the budget, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_core.errors import DependencyViolationError, ValidationError
from tolaria.training.learning_rate import PATIENCE, LearningRate, LearningRateState
from tolaria.training.optimizer import build_optimizer, group_view
from tolaria.training.plan import LearningRatePlan, OptimizerPlan

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


@given(
    st.builds(
        LearningRateState,
        scale=st.floats(0.01, 2),
        group_scales=st.dictionaries(st.sampled_from(["host", "seed"]), st.floats(0.01, 2)),
        plateau=st.floats(0.01, 1),
        best_loss=st.one_of(st.just(float("inf")), st.floats(0, 10)),
        stale_passes=st.integers(0, 5),
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
