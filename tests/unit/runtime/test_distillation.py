"""Learning from a teacher: the loss, one frozen teacher at a time, its memory budget, and letting it go."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime.distillation import Distillation, check_answer, distillation_loss, memory_of
from esper_runtime.errors import (
    NoTeacherError,
    OwnershipConflictError,
    TeacherOutputError,
    TeacherTooLargeError,
)
from esper_runtime.ownership import HOST, teacher_owner
from support.growth import TinyNet, batch, equal_bits, tiny_host

ROOM = 1 << 20


def teacher(width: int = 6, seed: int = 9) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(width)


def logits(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.req("KAS-18")
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 7)])
def test_the_loss_is_the_divergence_written_out(shape: tuple[int, ...]) -> None:
    student, taught = logits(shape, 1), logits(shape, 2)
    p, q = torch.softmax(taught / 4, -1), torch.softmax(student / 4, -1)
    expected = 16 * (p * (p / q).log()).sum(-1).mean()
    assert torch.allclose(distillation_loss(student, taught), expected, atol=1e-6)
    assert distillation_loss(taught, taught).abs() < 1e-6
    assert distillation_loss(student, taught) > 0


@pytest.mark.req("KAS-18")
def test_a_host_that_learns_from_its_teacher_comes_closer_to_it_and_the_teacher_stays() -> None:
    host = tiny_host()
    distillation = Distillation(host.ownership, budget_bytes=ROOM)
    wise = teacher()
    distillation.register("wise", wise)
    before = {name: tensor.clone() for name, tensor in wise.state_dict().items()}
    optimizer = torch.optim.Adam(host.model.parameters(), lr=0.01)
    losses = []
    for step in range(30):
        x, _ = batch(step % 3)
        optimizer.zero_grad()
        loss = distillation.loss(host.model(x), distillation.answer(x))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert equal_bits(before, wise.state_dict())
    assert not wise.training and all(not one.requires_grad and one.grad is None for one in wise.parameters())


def test_the_loss_carries_its_weight() -> None:
    host, x = tiny_host(), batch()[0]
    wise, student = teacher(), logits((32, 3), 4)
    full, part = (Distillation(host.ownership, budget_bytes=ROOM, weight=weight) for weight in (1.0, 0.3))
    full.register("wise", wise)
    part.register("wise", wise)
    answer = full.answer(x)
    assert torch.allclose(part.loss(student, answer), 0.3 * full.loss(student, answer))


@pytest.mark.req("KAS-13")
def test_teachers_never_accumulate() -> None:
    host = tiny_host()
    distillation = Distillation(host.ownership, budget_bytes=ROOM)
    for number in range(20):
        distillation.register(f"teacher-{number}", teacher(seed=number))
    assert host.ownership.owners() == (HOST, teacher_owner("teacher-19"))
    assert distillation.teacher_id == "teacher-19"
    assert distillation.reset() and not distillation.reset()
    assert host.ownership.owners() == (HOST,) and distillation.teacher_id == ""
    with pytest.raises(NoTeacherError):
        distillation.answer(batch()[0])


def test_a_teacher_beyond_the_budget_is_refused_and_the_former_one_stays() -> None:
    host, small, large = tiny_host(), teacher(6), teacher(64)
    distillation = Distillation(host.ownership, budget_bytes=memory_of(small))
    distillation.register("small", small)
    with pytest.raises(TeacherTooLargeError) as refusal:
        distillation.register("large", large)
    assert refusal.value.allowed == f"at most {memory_of(small)} bytes"
    assert distillation.teacher_id == "small" and large.training
    assert host.ownership.owners() == (HOST, teacher_owner("small"))


@pytest.mark.req("KAS-13")
def test_a_teacher_that_shares_the_hosts_parameters_is_refused_and_nothing_is_frozen() -> None:
    host, former = tiny_host(), teacher()
    distillation = Distillation(host.ownership, budget_bytes=ROOM)
    distillation.register("former", former)
    with pytest.raises(OwnershipConflictError):
        distillation.register("itself", host.model)
    assert all(parameter.requires_grad for parameter in host.model.parameters()) and host.model.training
    assert host.ownership.owners() == (HOST, teacher_owner("former")) and distillation.teacher_id == "former"


def test_a_teacher_may_be_registered_again() -> None:
    host, wise = tiny_host(), teacher()
    distillation = Distillation(host.ownership, budget_bytes=ROOM)
    distillation.register("wise", wise)
    distillation.register("wiser", wise)
    assert host.ownership.owners() == (HOST, teacher_owner("wiser"))


def test_a_teacher_of_other_classes_is_told() -> None:
    distillation = Distillation(tiny_host().ownership, budget_bytes=ROOM)
    distillation.register("other", nn.Linear(4, 7))
    with pytest.raises(TeacherOutputError) as refusal:
        distillation.loss(logits((32, 3), 1), distillation.answer(batch()[0]))
    assert refusal.value.allowed == "finite logits of shape (32, 3)"


@pytest.mark.parametrize(
    ("student", "answer", "told"),
    [
        (logits((32, 3), 1), logits((32, 7), 1), "finite logits of shape (32, 3)"),
        (logits((32, 3), 1), torch.full((32, 3), math.nan), "finite logits of shape (32, 3)"),
        (logits((32, 3), 1), (logits((32, 3), 1),), "finite logits of shape (32, 3)"),
        (logits((32,), 1), logits((32,), 1), "a host that answers with one tensor of logits, classes last"),
    ],
)
def test_an_answer_from_which_nothing_can_be_learned_is_refused(student: Tensor, answer: object, told: str) -> None:
    check_answer(logits((2, 5), 1), logits((2, 5), 2))
    with pytest.raises(TeacherOutputError) as refusal:
        check_answer(student, answer)
    assert refusal.value.allowed == told


def test_a_teacher_of_no_weight_is_not_asked() -> None:
    host = tiny_host()
    mute, heard = (Distillation(host.ownership, budget_bytes=ROOM, weight=weight) for weight in (0.0, 0.1))
    for one in (mute, heard):
        one.register("wise", teacher())
    assert heard.asked and not mute.asked
    assert heard.reset() and not heard.asked


@pytest.mark.parametrize(
    "bad", [{"weight": -1.0}, {"weight": math.nan}, {"temperature": 0.0}, {"budget_bytes": -1}, {"weight": math.inf}]
)
def test_numbers_out_of_bounds_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Distillation(tiny_host().ownership, **{"budget_bytes": ROOM, **bad})  # type: ignore[arg-type]


def test_a_host_without_a_teacher_learns_as_ever() -> None:
    x, y = batch()
    bare, hosted = tiny_host(), tiny_host()
    distillation = Distillation(hosted.ownership, budget_bytes=ROOM)
    distillation.register("wise", teacher())
    assert distillation.reset()
    for host in (bare, hosted):
        torch.manual_seed(1)
        F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
    pairs = zip(bare.model.parameters(), hosted.model.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs if one.grad is not None and two.grad is not None)
