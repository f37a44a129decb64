"""A batch in parts is the same step as the batch at once, and there is nothing between two parts to resume from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper_core import leyline
from esper_core.errors import ValidationError
from support.device_waits import waits
from support.tolaria_runs import SEED, attach, directive, letter_spec, open_letter, prepare_kernel, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.service.submission import check_spec
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.session import Session
from tolaria.training.step import training_step

PARTS = 4


def in_parts(parts: int = PARTS, **changes: object) -> Session:
    return open_letter(letter_spec(gradient_accumulation=parts, **changes), run_id="run")


def state(session: Session) -> list[Tensor]:
    moments = (value for kept in session.optimizer.state.values() for value in kept.values())
    return [tensor.detach().clone() for tensor in (*session.host.model.parameters(), *moments)]


def same_bits(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def gradients(session: Session) -> list[Tensor]:
    return [p.grad.clone() for p in session.host.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 4, 32, 128])
def test_gradients_of_the_parts_add_up_to_those_of_the_batch(parts: int) -> None:
    whole, divided = open_letter(), in_parts(parts)
    first, second = training_step(whole, 4.0), training_step(divided, 4.0)
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-5)
    for one, other in zip(gradients(whole), gradients(divided), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_run_in_parts_takes_the_course_of_the_run_with_whole_batches() -> None:
    whole = open_letter(letter_spec(optimizer={"name": "sgd", "learning_rate": 0.1}))
    divided = in_parts(optimizer={"name": "sgd", "learning_rate": 0.1})
    losses = [(training_step(whole, 4.0).loss, training_step(divided, 4.0).loss) for _ in range(30)]
    assert [loss for _, loss in losses] == pytest.approx([loss for loss, _ in losses], rel=1e-4)
    for one, other in zip(whole.host.model.parameters(), divided.host.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


@pytest.mark.req("TOL-12")
def test_parts_are_no_steps_and_cost_no_more() -> None:
    whole, divided = open_letter(), in_parts()
    for session in (whole, divided):
        for _ in range(3):
            training_step(session, 4.0)
    assert divided.counters == whole.counters and divided.sampler.cursor == whole.sampler.cursor
    assert divided.cost == whole.cost and divided.fraction == whole.fraction


@pytest.mark.req("TOL-31")
def test_a_step_in_parts_waits_for_the_device_as_often_as_a_whole_one() -> None:
    found = []
    for session in (open_letter(), in_parts()):
        training_step(session, 4.0)
        found.append(waits(lambda session=session: training_step(session, 4.0)))
    assert found[0] == found[1] > 0


def test_a_run_in_parts_goes_on_bit_for_bit_from_a_snapshot() -> None:
    session = in_parts()
    for _ in range(2):
        training_step(session, 4.0)
    snapshot = capture_session(session, 0.0)
    for _ in range(3):
        training_step(session, 4.0)
    expected, other = state(session), in_parts()
    restore_session(other, snapshot)
    for _ in range(3):
        training_step(other, 4.0)
    assert same_bits(state(other), expected)


def test_a_step_that_fails_in_a_later_part_is_made_again_as_if_it_had_never_begun() -> None:
    clean, session = in_parts(), in_parts()
    for run in (clean, session):
        training_step(run, 4.0)
    before, cursor, calls = state(session), session.sampler.cursor, []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == PARTS - 1:
            raise RuntimeError("out of memory")

    handle = session.host.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError):
        training_step(session, 4.0)
    handle.remove()
    assert same_bits(state(session), before) and session.counters.step == 1
    session.sampler.seek(cursor)
    for run in (clean, session):
        training_step(run, 4.0)
    assert same_bits(state(session), state(clean))


def test_a_bad_number_in_one_part_spoils_the_whole_step() -> None:
    session, calls = in_parts(), []
    before = state(session)
    assert session.cost.step > 0  # Measured now, because that runs the model as well.

    def poison(_module: object, _inputs: object, output: Tensor) -> Tensor:
        calls.append(1)
        return output * float("nan") if len(calls) == 2 else output

    handle = session.host.model.register_forward_hook(poison)
    assert training_step(session, 4.0).problem == "non_finite_loss"
    handle.remove()
    assert len(calls) == PARTS and same_bits(state(session), before)


def test_a_seed_in_shadow_gets_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    found = []
    for parts in (1, PARTS):
        run = small_run(tmp_path / str(parts), letter_spec(gradient_accumulation=parts))
        session = run.session
        does = DirectiveExecutor(run.parts.operations, lambda s=session: s.counters.step)
        prepare_kernel(session, run.links, SEED)
        assert does.apply(attach(session, SEED)).applied
        shadow = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_SHADOW)
        assert does.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=shadow)).applied
        assert session.shadowed == (SEED,)
        training_step(session, 4.0)
        found.append([p.grad for p in session.host.graft(SEED).seed.parameters() if p.grad is not None])
        run.events.close()
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-4, atol=1e-6)


def test_parts_must_be_equal() -> None:
    with pytest.raises(ValidationError) as refused:
        in_parts(3)
    assert refused.value.field == "spec.gradient_accumulation"
    with pytest.raises(ValidationError) as refused:
        check_spec(letter_spec(gradient_accumulation=3, batch_size=64))
    assert refused.value.field == "spec.gradient_accumulation"
