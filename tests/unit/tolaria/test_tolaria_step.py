"""What a step costs may shrink; that a number which is not finite never reaches the weights may not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from esper_tasks import load_task, mean_loss
from esper_tasks.protocol import ClassificationTask
from support.tolaria_runs import open_letter
from tolaria.training.optimizer import (
    all_parameters,
    build_optimizer,
    forget_gradients,
    gradient_norm,
    host_parameters,
    update,
)
from tolaria.training.passes import make_passes
from tolaria.training.plan import OPTIMIZERS, OptimizerPlan
from tolaria.training.session import Session
from tolaria.training.step import training_step

BAD = (math.nan, math.inf, -math.inf)


def with_gradient(gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


def state(session: Session) -> list[Tensor]:
    moments = (value for kept in session.optimizer.state.values() for value in kept.values())
    return [tensor.detach().clone() for tensor in (*session.host.model.parameters(), *moments)]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=3), min_size=1, max_size=5),
    kind=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_norm_is_that_of_all_gradients_together(seed: int, shapes: list[list[int]], kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(shape, generator=generator, dtype=kind) for shape in shapes]
    whole = torch.linalg.vector_norm(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    assert gradient_norm(with_gradient(gradient) for gradient in gradients) == pytest.approx(float(whole), rel=1e-5)


def test_the_norm_reads_a_gradient_however_it_lies_in_memory() -> None:
    turned = torch.arange(6.0).reshape(2, 3).t()
    assert gradient_norm([with_gradient(turned)]) == pytest.approx(math.sqrt(55.0))
    assert gradient_norm([nn.Parameter(torch.ones(3))]) is None


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_number_anywhere_makes_the_norm_bad(bad: float, place: int) -> None:
    gradients = [torch.ones(3, 2), torch.ones(4), torch.ones(())]
    gradients[place].view(-1)[-1] = bad
    norm = gradient_norm(with_gradient(gradient) for gradient in gradients)
    assert norm is not None and not math.isfinite(norm)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_gradient_under_a_good_loss_changes_nothing(bad: float) -> None:
    session = open_letter()
    training_step(session, 4.0)
    last = list(session.host.model.parameters())[-1]
    handle = last.register_hook(lambda gradient: torch.full_like(gradient, bad))
    before = state(session)
    result = training_step(session, 4.0)
    handle.remove()
    assert result.problem == "non_finite_gradient" and math.isfinite(result.loss) and result.step == 1
    assert all(torch.equal(now, then) for now, then in zip(state(session), before, strict=True))


def test_gradients_are_dropped_not_zeroed() -> None:
    session = open_letter()
    training_step(session, 4.0)
    forget_gradients(all_parameters(session.optimizer))
    assert all(parameter.grad is None for parameter in session.host.model.parameters())


def test_the_mean_of_cross_entropy_in_one_operation_has_the_same_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(128, 26, generator=generator, requires_grad=True)
    targets = torch.randint(0, 26, (128,), generator=generator)
    task = load_task("letter")
    (one,) = torch.autograd.grad(mean_loss(task, logits, targets), logits)
    (two,) = torch.autograd.grad(task.loss(logits, targets).mean(), logits)
    assert torch.equal(one, two)


def test_a_task_with_a_loss_of_its_own_is_trained_on_that() -> None:
    class Halved(ClassificationTask):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(outputs, targets) / 2

    outputs, targets = torch.eye(3), torch.tensor([0, 1, 2])
    whole = mean_loss(load_task("letter"), outputs, targets)
    assert mean_loss(Halved(), outputs, targets) == pytest.approx(float(whole) / 2)  # type: ignore[arg-type]


@pytest.mark.req("TOL-22")
def test_the_loss_is_on_the_device_of_the_outputs() -> None:
    outputs = torch.empty(4, 26, device="meta")
    assert mean_loss(load_task("letter"), outputs, torch.zeros(4, dtype=torch.int64)).device.type == "meta"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_the_optimizers_step_to_the_bit(name: str) -> None:
    updated, stepped = open_letter(), open_letter()
    for session, make in ((updated, update), (stepped, lambda optimizer: optimizer.step())):
        session.optimizer = build_optimizer(OptimizerPlan(name, 0.01), host_parameters(session.host))
        for _ in range(3):
            forget_gradients(all_parameters(session.optimizer))
            make_passes(session, session.next_batch())
            make(session.optimizer)
    pairs = zip(updated.host.model.parameters(), stepped.host.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_an_update_runs_hooks_is_profiled_and_respects_a_step_that_was_replaced() -> None:
    optimizer, heard = build_optimizer(OptimizerPlan("adam", 0.01), [nn.Parameter(torch.ones(2))]), list[str]()
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        handle = register(lambda *_: heard.append("own"))
        update(optimizer)
        handle.remove()
    for everywhere in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        handle = everywhere(lambda *_: heard.append("global"))
        update(optimizer)
        handle.remove()
    update(optimizer)
    assert heard == ["own", "own", "global", "global"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        update(optimizer)
    assert any(event.key == "Optimizer.step#Adam.step" for event in profile.key_averages())
    optimizer.step = lambda: heard.append("replaced")  # type: ignore[assignment, method-assign]
    update(optimizer)
    assert heard[-1] == "replaced"
