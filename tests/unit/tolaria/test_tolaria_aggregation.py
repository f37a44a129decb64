"""Conflicting gradients are projected as published, owner by owner, in buffers that are made once per topology."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_core.errors import ValidationError
from support.tolaria_runs import letter_spec, open_letter, small_run
from tolaria.aggregation.pool import GradientPool, Met
from tolaria.aggregation.projection import Weighed, add_up, weigh
from tolaria.service.submission import check_spec
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.loop import TrainingLoop
from tolaria.training.session import Session
from tolaria.training.step import training_step

shapes = st.tuples(st.integers(0, 999), st.integers(2, 5), st.integers(1, 12))


def gradients(seed: int, losses: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(losses, length, generator=generator, dtype=torch.float64)


def as_published(gradients_LN: Tensor, order: random.Random) -> Tensor:
    """The algorithm as its paper writes it, vector by vector."""
    total = torch.zeros_like(gradients_LN[0])
    for row, gradient in enumerate(gradients_LN):
        projected = gradient.clone()
        others = [index for index in range(len(gradients_LN)) if index != row]
        order.shuffle(others)
        for other in others:
            against = torch.dot(projected, gradients_LN[other])
            if against < 0:
                projected -= against / gradients_LN[other].square().sum() * gradients_LN[other]
        total += projected
    return total


def project(gradients_LN: Tensor, order: random.Random) -> tuple[Tensor, Weighed]:
    weighed = weigh((gradients_LN @ gradients_LN.T).tolist(), order)
    return add_up(gradients_LN, weighed), weighed


def with_parts(**changes: object) -> Session:
    fields: dict[str, object] = {"gradient_accumulation": 4, "gradient_aggregation": "pcgrad", **changes}
    return open_letter(letter_spec(**fields), run_id="run")


@pytest.mark.req("TOL-30")
@settings(max_examples=60, deadline=None)
@given(shapes)
def test_the_projection_is_the_published_one(shape: tuple[int, int, int]) -> None:
    rows = gradients(*shape)
    before = rows.clone()
    found, weighed = project(rows, random.Random(7))
    torch.testing.assert_close(found, as_published(rows, random.Random(7)), rtol=1e-7, atol=1e-9)
    assert torch.equal(rows, before)
    signs = torch.triu(rows @ rows.T, diagonal=1) < 0
    assert weighed.conflicts == int(signs.sum())


@pytest.mark.req("TOL-30")
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 12))
def test_of_two_losses_neither_is_worsened(seed: int, length: int) -> None:
    rows = gradients(seed, 2, length)
    found = project(rows, random.Random(0))[0]
    assert min((rows @ found).tolist()) >= -1e-9


@pytest.mark.req("TOL-30")
def test_without_a_conflict_the_gradients_add() -> None:
    rows = gradients(3, 4, 6).abs()
    assert torch.equal(project(rows, random.Random(0))[0], rows.sum(dim=0))
    rows[1] = 0.0
    assert project(rows, random.Random(0))[1].conflicts == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_stays_visible(bad: float) -> None:
    rows = gradients(5, 3, 4)
    rows[1, 2] = bad
    assert not project(rows, random.Random(0))[0].isfinite().all()


def filled(pool: GradientPool, parameters: list[nn.Parameter], losses: list[list[Tensor | None]]) -> None:
    for index, found in enumerate(losses):
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        pool.take(index)


@pytest.mark.req("TOL-30", "TOL-32")
def test_owners_are_projected_apart_and_untouched_parameters_stay_without_gradient() -> None:
    host, seed, frozen = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    pool = GradientPool({"host": [host], "seed": [seed], "frozen": [frozen]}, 2)
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    filled(pool, [host, seed, frozen], [[one.clone(), one.clone(), None], [other.clone(), one.clone(), None]])
    assert pool.give(random.Random(0)) == {"host": Met(1, 1), "seed": Met(0, 1)}
    assert host.grad is not None and seed.grad is not None and frozen.grad is None
    torch.testing.assert_close(seed.grad, 2 * one)
    torch.testing.assert_close(host.grad, torch.tensor([0.5, 1.5]))


@pytest.mark.req("TOL-32")
def test_buffers_are_used_again_and_made_anew_when_the_topology_changes() -> None:
    session = with_parts()
    pool, places = session.gradients, []
    for _ in range(3):
        training_step(session, 4.0)
        places.append([p.grad.data_ptr() for p in session.host.model.parameters() if p.grad is not None])
    assert session.gradients is pool and places[0] == places[1] == places[2]
    session.topology_changed()
    assert session.gradients is not pool


def test_parameters_of_two_types_are_refused() -> None:
    mixed = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    with pytest.raises(ValidationError):
        GradientPool({"host": mixed}, 2)


@pytest.mark.req("TOL-30")
def test_a_run_with_projection_learns_tells_its_conflict_rate_and_resumes_bit_for_bit() -> None:
    session = with_parts()
    results = [training_step(session, 4.0) for _ in range(3)]
    assert all(result.conflict_rate is not None and 0 <= result.conflict_rate <= 1 for result in results)
    snapshot = capture_session(session, 0.0)
    course = [training_step(session, 4.0).loss for _ in range(20)]
    assert course[-1] < results[0].loss
    other = with_parts()
    restore_session(other, snapshot)
    assert [training_step(other, 4.0).loss for _ in range(20)] == course
    for one, two in zip(session.host.model.parameters(), other.host.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_bad_gradient_of_one_part_never_reaches_the_weights() -> None:
    session = with_parts()
    training_step(session, 4.0)
    before = [parameter.detach().clone() for parameter in session.host.model.parameters()]
    calls: list[int] = []

    def poison(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * math.nan if len(calls) == 2 else gradient

    handle = next(session.host.model.parameters()).register_hook(poison)
    assert training_step(session, 4.0).problem == "non_finite_gradient"
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(session.host.model.parameters(), before, strict=True))


def test_the_conflict_rate_is_part_of_what_the_policy_sees(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec(gradient_accumulation=4, gradient_aggregation="pcgrad"))
    TrainingLoop(run.parts).turn()
    rate = run.parts.reporter.record().metrics["grad_conflict_rate"]
    assert rate is not None and 0 <= rate <= 1
    run.events.close()


@pytest.mark.parametrize("changes", [{"gradient_accumulation": 1}, {"gradient_aggregation": "mean"}])
def test_projection_needs_parts_and_a_name_that_exists(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        with_parts(**changes)
    assert refused.value.field == "spec.gradient_aggregation"
    fields: dict[str, object] = {"gradient_accumulation": 4, "gradient_aggregation": "pcgrad", **changes}
    with pytest.raises(ValidationError):
        check_spec(letter_spec(**fields))
