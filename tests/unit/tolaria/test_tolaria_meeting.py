"""Losses meet where they reach the same owner: per pair, per owner, per generation, and never by broadcasting."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_tasks.letter import LetterTask
from support.tolaria_grown import SEED, gradients_of, grown_run, perform, same, shadow
from support.tolaria_runs import detach, letter_spec, open_letter
from tolaria.aggregation.pool import GradientPool, GradientShapeError, Met
from tolaria.service.submission import check_spec
from tolaria.training.opening import open_session
from tolaria.training.planning import resolve_plan
from tolaria.training.step import training_step

pytestmark = pytest.mark.req("TOL-30")
BLENDING = leyline.SEED_STAGE_BLENDING


def by_seed(**changes: object) -> leyline.RunSpec:
    fields: dict[str, object] = {
        "gradient_aggregation": "pcgrad",
        "pcgrad_losses": "seed",
        "growth": {"policy": "schedule"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        **changes,
    }
    return letter_spec(**fields)


def plain(**changes: object) -> leyline.RunSpec:
    return by_seed(**{"gradient_aggregation": "", "pcgrad_losses": "", **changes})


@pytest.mark.parametrize("parts", [1, 4])
def test_a_blending_seed_learns_as_ever_and_its_host_from_both_losses_without_their_conflict(
    parts: int, tmp_path: Path
) -> None:
    spec = {"gradient_accumulation": parts}
    held, free = (
        grown_run(tmp_path / "a", by_seed(**spec), BLENDING),
        grown_run(tmp_path / "b", plain(**spec), BLENDING),
    )
    absent = grown_run(tmp_path / "c", plain(**spec), BLENDING)
    absent.session.host.graft(SEED).route = "bypass"
    results = [training_step(run.session, 1e9) for run in (held, free, absent)]
    assert results[0].loss == results[1].loss
    assert same(gradients_of(free, seed=True), gradients_of(held, seed=True))
    expected = mean_without_conflict(flat(gradients_of(free, seed=False)), flat(gradients_of(absent, seed=False)))
    torch.testing.assert_close(flat(gradients_of(held, seed=False)), expected, rtol=1e-4, atol=1e-6)
    assert results[0].met[SEED] == Met(0, 0) and results[0].met["host"].pairs == 1
    for run in (held, free, absent):
        run.events.close()


def flat(gradients: object) -> Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None])  # type: ignore[attr-defined]


def mean_without_conflict(one_N: Tensor, other_N: Tensor) -> Tensor:
    against = min(0.0, float(one_N @ other_N))
    kept = one_N - against / other_N.square().sum() * other_N, other_N - against / one_N.square().sum() * one_N
    return (kept[0] + kept[1]) / 2


@pytest.mark.parametrize("stage", [leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_FOSSILIZED, None])
def test_where_nothing_meets_the_step_is_the_ordinary_one_to_the_bit(stage: int | None, tmp_path: Path) -> None:
    runs = [
        grown_run(tmp_path / name, spec, stage or leyline.SEED_STAGE_TRAINING)
        for name, spec in (("held", by_seed()), ("plain", plain()))
    ]
    for run in runs:
        if stage is None:
            shadow(run)
        assert run.session.contested == ()
    first, second = ([training_step(run.session, 1e9) for _ in range(2)] for run in runs)
    assert [result.loss for result in first] == [result.loss for result in second]
    assert first[-1].met == {} and first[-1].conflict_rate is None
    assert runs[0].session.counters == runs[1].session.counters
    for of_seed in (True, False):
        assert same(gradients_of(runs[0], seed=of_seed), gradients_of(runs[1], seed=of_seed))
    for run in runs:
        run.events.close()


def test_the_further_pass_is_paid_for_and_leaves_only_gradients(tmp_path: Path) -> None:
    held, free = grown_run(tmp_path / "a", by_seed(), BLENDING), grown_run(tmp_path / "b", plain(), BLENDING)
    assert held.session.cost.step == free.session.cost.step + open_letter().cost.step
    before = torch.get_rng_state()
    training_step(held.session, 1e9)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    training_step(free.session, 1e9)
    assert torch.equal(torch.get_rng_state(), after)
    graft = held.session.host.graft(SEED)
    assert graft.route == "live" and graft.alpha_value == 1.0
    for run in (held, free):
        run.events.close()


def test_masks_follow_the_generation(tmp_path: Path) -> None:
    run = grown_run(tmp_path, by_seed(), BLENDING)
    training_step(run.session, 1e9)
    pool = run.session.gradients
    assert run.session.gradients is pool
    perform(run, detach(run.session, SEED))
    assert run.session.gradients is not pool and run.session.contested == ()
    assert training_step(run.session, 1e9).problem == ""
    run.events.close()


def test_a_pool_never_outlives_its_generation_even_unannounced(tmp_path: Path) -> None:
    run = grown_run(tmp_path, by_seed(), BLENDING)
    pool = run.session.gradients
    run.session.host.cull(SEED)
    assert run.session.gradients is not pool
    run.events.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5))
def test_pairs_are_those_of_the_losses_that_reached_an_owner(reached: list[list[bool]]) -> None:
    owners = {name: nn.Parameter(torch.zeros(2)) for name in ("host", "one", "two")}
    pool = GradientPool({name: [parameter] for name, parameter in owners.items()}, len(reached), mean=True)
    for loss, row in enumerate(reached):
        for parameter, here in zip(owners.values(), row, strict=True):
            parameter.grad = torch.full((2,), float(loss + 1)) if here else None
        pool.take(loss)
    met = pool.give(random.Random(0))
    for index, (name, parameter) in enumerate(owners.items()):
        came = [loss + 1 for loss, row in enumerate(reached) if row[index]]
        assert met.get(name) == (Met(0, len(came) * (len(came) - 1) // 2) if came else None)
        expected = torch.full((2,), sum(came) / len(came)) if came else None
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected)


def test_a_loss_whose_outputs_and_targets_broadcast_is_refused_before_the_first_step() -> None:
    class Careless(LetterTask):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs[:, :1] - targets.float()).square()

    plan = resolve_plan("run", letter_spec(), LetterTask())
    assert open_session(plan, LetterTask()).counters.step == 0
    with pytest.raises(ValidationError, match="broadcast"):
        open_session(plan, Careless())


@pytest.mark.parametrize("shape", [(1,), (1, 3), (3, 1), (2, 1)])
def test_a_shape_that_would_broadcast_is_an_error(shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    pool = GradientPool({"host": [parameter]}, 2)
    parameter.data = torch.zeros(shape)
    parameter.grad = torch.ones(shape)
    with pytest.raises(GradientShapeError, match="host"):
        pool.take(0)


def test_a_transposed_parameter_is_an_error_although_its_size_fits() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    pool = GradientPool({"host": [parameter]}, 2)
    parameter.data = torch.zeros(3, 2)
    parameter.grad = torch.ones(3, 2)
    with pytest.raises(GradientShapeError):
        pool.take(0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"growth": {"policy": "none"}}, "spec.pcgrad_losses"),
        ({"gradient_aggregation": "sum"}, "spec.pcgrad_losses"),
        ({"pcgrad_losses": "batch"}, "spec.pcgrad_losses"),
        ({"pcgrad_losses": "microbatch"}, "spec.gradient_aggregation"),
        ({"gradient_aggregation": "mean"}, "spec.gradient_aggregation"),
    ],
)
def test_what_has_no_losses_to_meet_is_refused_by_the_service_and_by_the_worker(
    changes: dict[str, object], field: str
) -> None:
    for refuse in (check_spec, open_letter):
        with pytest.raises(ValidationError) as refused:
            refuse(by_seed(**changes))
        assert refused.value.field == field
