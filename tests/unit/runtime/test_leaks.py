"""Leaks: an isolated seed shows none, one that reaches into its host shows what it does, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core import leyline
from esper_core.clocks import ManualClock
from esper_core.errors import CircuitOpenError
from esper_runtime import Host, stages
from esper_runtime.errors import IsolationViolationError
from esper_runtime.isolation_guard import IsolationGuard, LeakLimits, isolation_breaker
from esper_runtime.leaks import Leak, LeakMeter, watch_leaks
from support.growth import SEED, batch, equal_bits, grow, shake, tiny_host

CLEAN, DIRTY = Leak(0.0, 0.0), Leak(0.4, 0.2)


class Reaching(nn.Module):
    """A seed that uses a weight of its host without owning it, as no check of parameter sets can see."""

    def __init__(self, borrowed: Callable[[], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 10)
        self.borrowed = borrowed

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.linear(x), self.borrowed())


def reaching_host() -> Host:
    host = tiny_host()
    weight = host.model.get_parameter("middle.weight")
    torch.manual_seed(1)
    host.germinate("hidden", Reaching(lambda: weight), seed_id=SEED)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.STRAIGHT_THROUGH)
    return host


def backward(host: Host, scale: float = 1.0) -> dict[str, Tensor]:
    """One backward pass of the host on its own; the gradients of host and seeds by name."""
    host.model.zero_grad()
    torch.manual_seed(0)
    x, y = batch()
    (F.cross_entropy(host.model(x), y) * scale).backward()  # type: ignore[no-untyped-call]
    found = ((item.name, item.tensor.grad) for item in host.named_parameters())
    return {name: gradient.clone() for name, gradient in found if gradient is not None}


def measure(host: Host, scale: float = 1.0, samples: int = 4096) -> tuple[Leak, dict[str, Tensor]]:
    with watch_leaks(host, torch.Generator().manual_seed(4), samples) as meters:
        gradients = backward(host, scale)
    return meters[SEED].read(), gradients


@pytest.mark.req("KAS-8")
@pytest.mark.parametrize(
    ("isolation", "expected"),
    [(stages.STRAIGHT_THROUGH, Leak(0.0, 0.0)), (stages.SHADOW, Leak(0.0, 0.0)), (stages.FREEZE, Leak(None, 0.0))],
)
def test_an_isolated_seed_leaks_nothing_and_measuring_changes_nothing(isolation: int, expected: Leak) -> None:
    host = tiny_host()
    shake(grow(host))
    host.set_stage(SEED, stages.TRAINING, isolation=isolation)
    plain, random_state = backward(host), torch.get_rng_state()
    with watch_leaks(host, torch.Generator()) as meters:
        watched = backward(host)
        random_after = torch.get_rng_state()
        if isolation == stages.SHADOW:
            with host.shadow(SEED):
                F.cross_entropy(host.model(batch()[0]), batch()[1]).backward()  # type: ignore[no-untyped-call]
    assert meters[SEED].read() == expected
    assert equal_bits(plain, watched) and torch.equal(random_state, random_after)
    assert not host.graft(SEED).seed._forward_hooks


@pytest.mark.req("KAS-8")
def test_a_reaching_seed_shows_the_cosine_and_size_of_what_it_adds() -> None:
    found, both = measure(reaching_host(), samples=200_000)
    host = tiny_host()
    own = backward(host)
    h = torch.cat([gradient.flatten() for gradient in own.values()]).double()
    leaked = torch.cat([(both[name] - gradient).flatten() for name, gradient in own.items()]).double()
    assert found.cosine == pytest.approx(float(F.cosine_similarity(h, leaked, dim=0)), abs=0.03)
    assert found.ratio == pytest.approx(float(leaked.norm() / h.norm()), rel=0.1)
    assert LeakLimits().violated(found)


@pytest.mark.req("KAS-8")
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_measure_does_not_depend_on_the_scale_of_the_loss(scale: float) -> None:
    plain, _ = measure(reaching_host())
    scaled, _ = measure(reaching_host(), scale)
    assert scaled.cosine == pytest.approx(plain.cosine, rel=1e-3) and scaled.ratio == pytest.approx(
        plain.ratio, rel=1e-3
    )


@pytest.mark.req("KAS-8")
def test_a_loss_scale_that_is_taken_off_the_gradients_is_taken_off_the_leak() -> None:
    plain, host = measure(reaching_host())[0], reaching_host()
    with watch_leaks(host, torch.Generator().manual_seed(4), loss_scale=1024.0) as meters:
        backward(host, 1024.0)
    for parameter in host.model.parameters():
        if parameter.grad is not None:
            parameter.grad /= 1024.0
    assert meters[SEED].read() == Leak(pytest.approx(plain.cosine), pytest.approx(plain.ratio))  # type: ignore[arg-type]


@pytest.mark.req("KAS-7")
def test_a_large_tensor_is_sampled_and_never_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "randperm")
    host = reaching_host()
    meter, owned = LeakMeter(host, False, 64, torch.Generator()), host.ownership.parameters("host")
    drawn = {name: meter._coordinates(name, parameter) for name, parameter in owned.items()}
    assert all(int(index.max()) < owned[name].numel() for name, index in drawn.items())
    assert sum(len(index) for index in drawn.values()) <= 64 + 16 * len(owned)
    assert len(meter._coordinates("large", torch.zeros(100_000))) < 100_000
    assert measure(host, samples=64)[0].ratio > 0


def test_a_frozen_host_with_gradients_is_a_violation() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.TRAINING)
    host.model.get_parameter("head.bias").requires_grad_(True)
    found, _ = measure(host)
    assert found == Leak(None, math.inf) and LeakLimits().violated(found)


@pytest.mark.parametrize(
    ("leak", "violated"),
    [
        (CLEAN, False),
        (Leak(None, 0.0), False),
        (Leak(0.05, 1e-4), False),
        (Leak(-0.9, 1e-9), True),
        (Leak(0.0, 0.5), True),
        (Leak(math.nan, 0.0), True),
        (Leak(None, math.nan), True),
    ],
)
def test_limits_hold_in_any_direction_and_for_what_is_no_number(leak: Leak, violated: bool) -> None:
    assert LeakLimits().violated(leak) == violated


def test_three_violations_hold_back_new_seeds_for_half_a_minute_until_two_clean_checks() -> None:
    clock = ManualClock()
    guard = IsolationGuard(breaker=isolation_breaker(clock=clock))
    assert [guard.judge(SEED, DIRTY) for _ in range(3)] == [True] * 3
    with pytest.raises(CircuitOpenError, match=r"30\.0 s"):
        guard.admit()
    clock.advance(30)
    guard.admit()
    guard.judge(SEED, CLEAN)
    assert guard.breaker.state == leyline.CIRCUIT_STATE_HALF_OPEN
    guard.judge(SEED, CLEAN)
    assert guard.breaker.state == leyline.CIRCUIT_STATE_CLOSED
    guard.check()


def test_strict_mode_raises_the_first_violation_at_the_fence() -> None:
    guard = IsolationGuard(strict=True)
    guard.judge(SEED, CLEAN)
    guard.check()
    guard.judge(SEED, DIRTY)
    guard.judge("another", DIRTY)
    with pytest.raises(IsolationViolationError, match=r"0\.2 times") as raised:
        guard.check()
    assert raised.value.details["seed_id"] == SEED
