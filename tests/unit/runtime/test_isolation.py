"""Isolation: while a seed learns, the host does not move by a bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime import Host, Site, add_seed_group, stages
from esper_runtime.blending import clipped
from support.growth import SEED, batch, equal_bits, grow, shake, state_of, tiny_host, train


def host_state(host: Host) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state_of(host).items() if not name.startswith("seed:")}


def gradients_of(host: Host) -> dict[str, Tensor]:
    owned = host.ownership.parameters("host").items()
    return {name: parameter.grad.clone() for name, parameter in owned if parameter.grad is not None}


@given(
    steps=st.integers(1, 4),
    decay=st.floats(0, 0.1),
    optimizer_name=st.sampled_from(["SGD", "Adam", "AdamW"]),
    to_none=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_frozen_host_does_not_change_by_a_bit_while_its_seed_learns(
    steps: int, decay: float, optimizer_name: str, to_none: bool
) -> None:
    host = tiny_host()
    optimizer: torch.optim.Optimizer = getattr(torch.optim, optimizer_name)(
        host.model.parameters(), lr=0.05, weight_decay=decay
    )
    train(host, optimizer, 2)
    seed = grow(host)
    add_seed_group(host, optimizer, SEED)
    host.set_stage(SEED, stages.TRAINING)
    host_before, seed_before = host_state(host), {n: p.detach().clone() for n, p in seed.named_parameters()}
    for step in range(steps):
        host.model.train()
        optimizer.zero_grad(set_to_none=to_none)
        x, y = batch(step)
        F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None for name, p in host.ownership.parameters("host").items())
        optimizer.step()
    assert equal_bits(host_state(host), host_before)
    assert not equal_bits(dict(seed.named_parameters()), seed_before)


def test_the_flags_come_back_exactly_and_the_host_learns_again() -> None:
    host = tiny_host()
    host.model.get_parameter("head.bias").requires_grad_(False)
    norm = host.model.get_submodule("body.1")
    grow(host)
    host.set_stage(SEED, stages.TRAINING)
    assert not any(p.requires_grad for p in host.ownership.parameters("host").values())
    assert not norm.track_running_stats
    host.set_stage(SEED, stages.BLENDING)
    assert norm.track_running_stats
    frozen = {name for name, p in host.ownership.parameters("host").items() if not p.requires_grad}
    assert frozen == {"head.bias"}


def test_batch_statistics_in_training_are_those_of_the_batch() -> None:
    host = tiny_host()
    x, _ = batch()
    torch.manual_seed(0)
    expected = host.model(x)
    grow(host)
    host.set_stage(SEED, stages.TRAINING)
    torch.manual_seed(0)
    assert torch.equal(host.model(x), expected)


def test_instance_norms_are_held_still_too() -> None:
    norm = nn.InstanceNorm1d(3, track_running_stats=True)
    model = nn.Sequential(norm, nn.Conv1d(3, 4, 1))
    host = Host(model, [Site("out", "1", "channels_1d")], sample=torch.randn(2, 3, 5))
    host.germinate("out", nn.Conv1d(4, 4, 1), seed_id=SEED)
    host.set_stage(SEED, stages.TRAINING)
    assert norm.running_mean is not None
    mean = norm.running_mean.clone()
    model(torch.randn(2, 3, 5) + 3)
    assert torch.equal(norm.running_mean, mean)
    host.cull(SEED)
    model(torch.randn(2, 3, 5) + 3)
    assert not torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize("isolation", [stages.STRAIGHT_THROUGH, stages.SHADOW])
def test_host_gradients_are_those_of_a_step_without_the_seed(isolation: int) -> None:
    gradients = []
    for with_seed in (False, True):
        host = tiny_host()
        x, y = batch()
        if with_seed:
            shake(grow(host))
            host.set_stage(SEED, stages.TRAINING, isolation=isolation)
        torch.manual_seed(0)
        F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
        gradients.append(gradients_of(host))
    assert equal_bits(*gradients) and gradients[0]


class Counting(nn.Module):
    """A host module with a buffer of its own that every forward pass in training writes."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Drawing(nn.Module):
    """A seed that draws random numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, self.training)


def drawing_host() -> Host:
    """Random numbers, running statistics and a counter behind the site as well as before it."""
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10), nn.Dropout(0.2))
    tail = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(10), Counting(), nn.Linear(10, 3))
    return Host(nn.Sequential(body, tail), [Site("body", "0", "features")], sample=batch()[0])


@pytest.mark.parametrize("isolation", [stages.STRAIGHT_THROUGH, stages.SHADOW])
def test_a_host_trains_bit_for_bit_as_without_the_seed(isolation: int) -> None:
    ends, gradients = [], []
    for with_seed in (False, True):
        host = drawing_host()
        optimizer = torch.optim.AdamW(host.model.parameters(), lr=0.05, weight_decay=0.01)
        if with_seed:
            torch.manual_seed(8)
            host.germinate("body", Drawing(10), seed_id=SEED)
            add_seed_group(host, optimizer, SEED)
            host.set_stage(SEED, stages.TRAINING, isolation=isolation)
            learned = {name: p.detach().clone() for name, p in host.graft(SEED).seed.named_parameters()}
        torch.manual_seed(0)
        for step in range(4):
            optimizer.zero_grad()
            x, y = batch(step)
            F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
            if with_seed and isolation == stages.SHADOW:
                with host.shadow(SEED):
                    F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
            gradients.append(gradients_of(host))
            optimizer.step()
        ends.append({**host_state(host), "random state": torch.get_rng_state()})
    assert equal_bits(*ends)
    assert all(equal_bits(left, right) for left, right in zip(gradients[:4], gradients[4:], strict=True))
    assert not equal_bits(learned, dict(host.graft(SEED).seed.named_parameters()))


def test_the_output_of_a_straight_through_seed_is_clipped_to_its_host() -> None:
    h, s = torch.randn(3, 5), torch.randn(3, 5)
    held = clipped(100 * s, h)
    assert torch.allclose(held.norm(dim=1), h.norm(dim=1)) and torch.equal(clipped(1e-3 * s, h), 1e-3 * s)
    strong = (100 * s).requires_grad_()
    clipped(strong, h).backward(strong.detach())  # type: ignore[no-untyped-call]
    assert strong.grad is not None and float(strong.grad.abs().max()) < 1e-5
    assert torch.equal(clipped(s, torch.zeros_like(h)), torch.zeros_like(h))


def test_a_straight_through_seed_learns() -> None:
    host = tiny_host()
    seed = grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.STRAIGHT_THROUGH)
    F.cross_entropy(host.model(batch()[0]), batch()[1]).backward()  # type: ignore[no-untyped-call]
    assert seed.outer.weight.grad is not None and bool(seed.outer.weight.grad.abs().sum() > 0)


def test_a_shadow_loss_reaches_the_seed_alone_and_leaves_no_trace() -> None:
    host = tiny_host()
    seed = grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.SHADOW)
    x, y = batch()
    F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in seed.parameters())
    gradients = gradients_of(host)
    before, random_state = state_of(host), torch.get_rng_state()
    with host.shadow(SEED):
        F.cross_entropy(host.model(x), y).backward()  # type: ignore[no-untyped-call]
    assert sum(float(p.grad.abs().sum()) for p in seed.parameters() if p.grad is not None) > 0
    assert equal_bits(gradients, gradients_of(host)) and equal_bits(state_of(host), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_two_seeds_learn_beside_each_other_and_a_third_is_held() -> None:
    host = tiny_host()
    seeds = {name: grow(host, site, name) for name, site in (("a", "hidden"), ("b", "deep"), ("c", "deep"))}
    host.set_stage("c", stages.SHADOWING)
    host.set_stage("a", stages.TRAINING)
    host.set_stage("b", stages.TRAINING)
    assert {name: seed.outer.weight.requires_grad for name, seed in seeds.items()} == {"a": True, "b": True, "c": False}
    host.cull("a")
    host.cull("b")
    assert seeds["c"].outer.weight.requires_grad
