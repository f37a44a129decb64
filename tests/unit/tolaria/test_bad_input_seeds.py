"""A seed that raises, or that the loss does not see: culled, told and counted, and the host never notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_core import leyline
from kasmina.convert.evidence import evidence_from_message
from kasmina.gates import judge_gradient_health
from kasmina.gates.limits import GateLimits
from support.noisy_runs import BLENDING, SEED, TRAINING, bits, events, grow, noisy_run, same, told_as, turns
from support.tolaria_runs import SmallRun, attach, prepare_kernel
from tolaria.training.loop import TrainingLoop

Spoil = Callable[[nn.Module], None]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    torch.manual_seed(1)
    made = noisy_run(tmp_path / "run")
    yield made
    made.parts.keeper.close()
    made.events.close()


class Broken(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("no gradient here")


def raises_in_forward(seed: nn.Module) -> None:
    def forward(*_: object) -> Tensor:
        torch.rand(3)
        raise RuntimeError("no output here")

    seed.forward = forward


def raises_in_backward(seed: nn.Module) -> None:
    seed.register_forward_hook(lambda module, inputs, output: Broken.apply(output))  # type: ignore[no-untyped-call]


def answers_in_another_shape(seed: nn.Module) -> None:
    seed.register_forward_hook(lambda module, inputs, output: output[:, :-1])


@pytest.mark.parametrize("stages", [TRAINING, BLENDING], ids=["training", "blending"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (raises_in_forward, "RuntimeError: no output here"),
        (raises_in_backward, "RuntimeError: no gradient here"),
        (answers_in_another_shape, "must match the size"),
    ],
)
async def test_a_seed_that_raises_is_culled_and_told_and_the_host_never_notices(
    run: SmallRun, tmp_path: Path, stages: tuple[int, ...], spoil: Spoil, words: str
) -> None:
    turns(run, 5)
    before = bits(run.session)
    spoil(grow(run, *stages))
    assert TrainingLoop(run.parts).turn() is None
    assert same(bits(run.session), before) and run.session.counters.step == 5
    assert not run.session.host.seeds() and len(run.session.optimizer.param_groups) == 1
    (told,) = events(run, "seed")
    assert told.seed.to_stage == leyline.SEED_STAGE_CULLED and words in told.seed.reason
    assert {("tolaria.seeds.aborted_total", "raised"), ("seed_aborted", "")} <= await told_as([told])
    assert run.links.greet_again.is_set(), "Kasmina hears of it with the next greeting"

    turns(run, 8)
    grown = bits(run.session)
    torch.manual_seed(1)
    never = noisy_run(tmp_path / "never")
    turns(never, 8)
    assert same(grown, bits(never.session))
    never.events.close()


def raises_while_it_is_judged(seed: nn.Module) -> None:
    def check(module: nn.Module, inputs: object) -> None:
        if not module.training:
            raise RuntimeError("not like this")

    seed.register_forward_pre_hook(check)


@pytest.mark.parametrize("last", [False, True], ids=["in the run", "at the last fence"])
def test_a_seed_that_raises_while_it_is_judged_is_culled_too(run: SmallRun, last: bool) -> None:
    turns(run, 5 if not last else 60)
    raises_while_it_is_judged(grow(run, *BLENDING, leyline.SEED_STAGE_SHADOWING))
    before = bits(run.session)
    if last:
        assert TrainingLoop(run.parts).run().how == "completed"
        assert same(bits(run.session), before)
    else:
        turns(run, 7)
    (told,) = events(run, "seed")
    assert "not like this" in told.seed.reason and not run.session.host.seeds()


async def test_a_seed_that_does_not_run_at_the_fence_is_refused_told_and_counted(run: SmallRun) -> None:
    def forward(*_: object) -> Tensor:
        raise KeyError("weight")

    turns(run, 3)
    prepare_kernel(run.session, run.links, SEED).module.forward = forward
    before = bits(run.session)
    run.links.inbox.post(attach(run.session, SEED))
    assert run.parts.fence.cross() is None
    assert same(bits(run.session), before) and run.session.host.generation == 0
    (told,) = events(run, "directive")
    assert told.directive.error_code == "ESP-1003" and "'weight'" in told.directive.message
    assert ("tolaria.directives.applied_total", "ESP-1003") in await told_as([told])


async def test_a_loss_that_does_not_see_the_seed_culls_it_while_the_host_is_still(run: SmallRun) -> None:
    turns(run, 3)
    before = bits(run.session)
    grow(run, *TRAINING)
    run.session.host.graft(SEED).register_forward_hook(lambda module, inputs, output: output.detach())
    assert TrainingLoop(run.parts).turn() is None
    assert same(bits(run.session), before)
    (told,) = events(run, "seed")
    assert "UnreachedSeedError" in told.seed.reason and "must see the seed" in told.seed.reason
    assert ("tolaria.seeds.aborted_total", "raised") in await told_as([told])
    turns(run, 5)


def test_a_loss_that_does_not_see_the_seed_fails_its_gate_while_the_host_moves(run: SmallRun) -> None:
    turns(run, 3)
    module = grow(run, *BLENDING)
    module.register_forward_hook(lambda module, inputs, output: output.detach())
    turns(run, 5)
    (*_, evidence) = [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)]
    verdict = judge_gradient_health(evidence_from_message(evidence), GateLimits())
    assert not verdict.passed and "gradient_norm" in verdict.explanation
