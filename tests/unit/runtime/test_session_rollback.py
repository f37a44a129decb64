"""What a session does when a step goes wrong: back to a good state with all that belongs to it, or an end in one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from esper_core.errors import RunFailedError
from esper_runtime import Session
from esper_runtime.own_loop import Rules
from support.growing_session import HELD_OUT, PACE, PLAN, RULES, STEPS, adam, loss_of, moments, run, session_on, told
from support.growth import SITES, equal_bits, state_of, tiny_model


def test_a_loss_that_is_not_finite_rolls_back_weights_and_moments() -> None:
    model = tiny_model()
    session = session_on(model, ())
    run(session, 0, 10)
    good, kept = state_of(session.host), moments(session.optimizer)
    run(session, 10, 11)
    assert not equal_bits(state_of(session.host), good)
    session.optimizer.zero_grad()
    loss = loss_of(model, 11) * float("nan")
    loss.backward()  # type: ignore[no-untyped-call]
    before = torch.get_rng_state()
    assert session.step(loss) is False
    assert torch.equal(torch.get_rng_state(), before)
    assert equal_bits(state_of(session.host), good)
    assert all(torch.equal(value, moments(session.optimizer)[key]) for key, value in kept.items())
    assert told(session) == ["rolled_back"] and "step 10" in session.explain()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_rollback_brings_back_a_seed_that_was_there() -> None:
    session = session_on(tiny_model())
    run(session, 0, 22)
    good, topology = state_of(session.host), session.host.topology()
    run(session, 22, 23)
    assert not session.check(float("inf"))
    assert equal_bits(state_of(session.host), good)
    assert session.host.topology().grafts == topology.grafts and len(session.optimizer.param_groups) == 2
    run(session, 23, STEPS)
    assert "rolled_back" in told(session) and told(session)[-1] in ("fossilised", "culled")


def test_weights_that_a_step_spoiled_are_noticed_before_they_are_kept() -> None:
    model = tiny_model()
    session = session_on(model)
    run(session, 0, 19)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    session.advance()
    assert told(session) == ["rolled_back"] and bool(torch.isfinite(model.head.weight).all())


def test_the_session_gives_up_in_a_good_state_when_going_back_does_not_help() -> None:
    session = session_on(tiny_model(), ())
    run(session, 0, 4)
    good = state_of(session.host)
    with pytest.raises(RunFailedError, match="learning rate"):
        for _ in range(9):
            session.check(float("nan"))
    assert equal_bits(state_of(session.host), good) and told(session) == ["rolled_back"] * 4


def test_the_session_gives_up_also_where_every_step_keeps_a_state() -> None:
    session = session_on(tiny_model(), (), rules=Rules(replace(PACE, pulse=1)))
    run(session, 0, 4)
    with pytest.raises(RunFailedError):
        for _ in range(9):
            session.step(float("nan"))
    assert told(session) == ["rolled_back"] * 4


def test_gradients_stand_in_for_a_loss_that_is_not_told() -> None:
    model = tiny_model()
    session = session_on(model, ())
    loss_of(model, 0).backward()  # type: ignore[no-untyped-call]
    assert session.check(None)
    (loss_of(model, 0) * float("inf")).backward()  # type: ignore[no-untyped-call]
    assert not session.check(None)
    before = state_of(session.host)
    session.optimizer.step()
    assert equal_bits(state_of(session.host), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, STEPS),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=25),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 25),
            ],
            [25],
        ),
    ],
    ids=["lambda", "cosine", "one-cycle", "sequential"],
)
def test_seeds_follow_the_schedule_and_a_rollback_leaves_it_alone(make: Any) -> None:
    model, twin = tiny_model(), tiny_model()
    optimizer, bare = adam(model), adam(twin)
    scheduler, reference = make(optimizer), make(bare)
    session = Session(
        model, SITES, optimizer, held_out=HELD_OUT, steps=STEPS, plan=PLAN, rules=RULES, schedulers=[scheduler]
    )
    for step in range(50):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()  # type: ignore[no-untyped-call]
        session.step(loss if step != 26 else float("nan"))
        bare.step()
        scheduler.step()
        reference.step()
        rates = {round(float(group["lr"]), 12) for group in optimizer.param_groups}
        assert rates == {round(float(bare.param_groups[0]["lr"]), 12)}, step
