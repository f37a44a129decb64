"""Live grafting: a seed learns in a running loop and arrives at full alpha; one that reaches out is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core import leyline
from esper_runtime import BlendSpec, Host, IsolationGuard, add_seed_group, stages, watch_leaks
from esper_runtime.errors import IsolationViolationError
from esper_runtime.optim import SEED_KEY
from support.growth import SEED, batch, equal_bits, grow, tiny_host

LEARNING_EPOCHS = 40
EPOCHS = 100


class LiveRun:
    """A plain training loop of one batch per epoch around a host, with strict isolation at every fence."""

    def __init__(self) -> None:
        self.host = tiny_host()
        self.optimizer = torch.optim.Adam(self.host.model.parameters(), lr=0.02)
        self.guard = IsolationGuard(strict=True)
        self.sampling = torch.Generator().manual_seed(1)
        self.epoch = 0

    def attach(self, isolation: int) -> None:
        add_seed_group(self.host, self.optimizer, SEED)
        self.host.set_stage(SEED, stages.TRAINING, isolation=isolation)

    def train(self, epochs: int) -> list[float]:
        """Train, and return the seed's alpha in every epoch."""
        alphas = []
        for _ in range(epochs):
            self.guard.check()
            self.host.advance(self.epoch)
            with self._judged():
                self.optimizer.zero_grad()
                self._backward()
                self.optimizer.step()
            alphas.append(self.host.seed(SEED).alpha)
            self.epoch += 1
        return alphas

    def _backward(self) -> None:
        x, y = batch(self.epoch % 4)
        F.cross_entropy(self.host.model(x), y).backward()  # type: ignore[no-untyped-call]
        if (self.host.seed(SEED).stage, self.host.seed(SEED).isolation) == (stages.TRAINING, stages.SHADOW):
            with self.host.shadow(SEED):
                F.cross_entropy(self.host.model(x), y).backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def _judged(self) -> Iterator[None]:
        with watch_leaks(self.host, self.sampling) as meters:
            yield
        for seed_id, meter in meters.items():
            self.guard.judge(seed_id, meter.read())


def values(parameters: Iterator[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters}


def output(host: Host) -> Tensor:
    host.model.eval()
    with torch.no_grad():
        found: Tensor = host.model(batch()[0])
    host.model.train()
    return found


@pytest.mark.req("KAS-29")
@pytest.mark.parametrize("isolation", sorted(stages.ISOLATIONS))
def test_a_seed_arrives_at_full_alpha_within_a_hundred_epochs_without_a_violation(isolation: int) -> None:
    run = LiveRun()
    seed = grow(run.host)
    run.attach(isolation)
    fresh = values(seed.named_parameters())
    run.train(LEARNING_EPOCHS)
    learned = values(seed.named_parameters())
    assert not equal_bits(fresh, learned)
    run.host.set_stage(SEED, stages.BLENDING, isolation=isolation)
    run.host.set_blend(SEED, BlendSpec(), start_step=LEARNING_EPOCHS, end_step=EPOCHS - 1)
    alphas = run.train(EPOCHS - LEARNING_EPOCHS)
    assert alphas == sorted(alphas) and alphas[0] < 1.0 and alphas[-1] == 1.0
    run.guard.check()
    assert run.guard.breaker.snapshot().failures_in_a_row == 0
    assert run.guard.breaker.state == leyline.CIRCUIT_STATE_CLOSED
    assert not equal_bits(learned, values(seed.named_parameters()))
    [group] = [group for group in run.optimizer.param_groups if group.get(SEED_KEY) == SEED]
    assert {id(p) for p in group["params"]} == {id(p) for p in seed.parameters()}
    assert all(run.optimizer.state[parameter]["exp_avg"].abs().sum() > 0 for parameter in seed.parameters())
    with_seed = output(run.host)
    run.host.graft(SEED).route = "bypass"
    assert not torch.equal(with_seed, output(run.host))


class Reaching(nn.Module):
    """A seed that pulls at a weight of its host."""

    def __init__(self, borrowed: Callable[[], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 10)
        self.borrowed = borrowed

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.linear(x), self.borrowed())


@pytest.mark.req("KAS-29")
def test_a_seed_that_reaches_into_its_host_is_stopped_at_the_next_fence() -> None:
    run = LiveRun()
    weight = run.host.model.get_parameter("middle.weight")
    run.host.germinate("hidden", Reaching(lambda: weight), seed_id=SEED)
    run.attach(stages.STRAIGHT_THROUGH)
    with pytest.raises(IsolationViolationError, match="Cull the seed"):
        run.train(EPOCHS)
    assert run.epoch == 1
