"""A small run with a seed in a stage, as far as Kasmina would have brought it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from esper_core import leyline
from support.tolaria_runs import SEED, SmallRun, attach, directive, prepare_kernel, set_blend, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.training.step import training_step

_ROAD = (
    leyline.SEED_STAGE_TRAINING,
    leyline.SEED_STAGE_BLENDING,
    leyline.SEED_STAGE_SHADOWING,
    leyline.SEED_STAGE_PROBATIONARY,
    leyline.SEED_STAGE_FOSSILIZED,
)


def grown_run(folder: Path, spec: leyline.RunSpec, stage: int) -> SmallRun:
    """A run whose seed stands in a stage; the caller closes `events`."""
    run = small_run(folder, spec)
    prepare_kernel(run.session, run.links, SEED)
    perform(run, attach(run.session, SEED))
    for passed in _ROAD[: _ROAD.index(stage) + 1]:
        perform(run, set_stage(run.session, SEED, passed))
        if passed == leyline.SEED_STAGE_BLENDING:
            perform(run, set_blend(run.session, SEED, 0))
            run.session.host.advance(run.session.counters.step)
    wake(run)
    return run


def wake(run: SmallRun) -> None:
    """Give the seed some effect; a fresh one begins with none, and so hands its host no gradient to differ by."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in run.session.host.graft(SEED).seed.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def shadow(run: SmallRun) -> None:
    """Let the seed learn on passes of its own."""
    chosen = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_SHADOW)
    perform(run, directive(run.session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=chosen))


def perform(run: SmallRun, message: leyline.Directive) -> None:
    """Carry out a directive that must succeed."""
    done = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step).apply(message)
    assert done.applied, done.message


def train(run: SmallRun, steps: int) -> None:
    """Make steps as the loop does, a fence before each and a pulse after it."""
    for _ in range(steps):
        run.parts.fence.cross()
        with run.parts.pulse.watching() if run.parts.pulse.watches() else nullcontext():
            assert not training_step(run.session, 4.0).problem
        run.parts.pulse.beat()


def bare_state(run: SmallRun) -> dict[str, Tensor]:
    """A copy of the model's weights and buffers under torch's own names, which a graft changes."""
    return {name: tensor.clone() for name, tensor in run.session.host.model.state_dict().items()}


def last_evidence(run: SmallRun) -> leyline.SeedEvidence:
    """The newest evidence on its way to Kasmina; what lies there before it is taken as well."""
    return [item for item in run.links.to_kasmina.take() if isinstance(item, leyline.SeedEvidence)][-1]


def gradients_of(run: SmallRun, seed: bool) -> Sequence[Tensor | None]:
    """Gradients of the seed or of everything else, in a fixed order."""
    found = (item.tensor for item in run.session.host.named_parameters() if (item.seed_id is not None) == seed)
    return [None if tensor.grad is None else tensor.grad.clone() for tensor in found]


def same(first: Sequence[Tensor | None], second: Sequence[Tensor | None], factor: float = 1.0) -> bool:
    """Say whether the second gradients are the first times a factor, to the bit."""
    pairs = list(zip(first, second, strict=True))
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a * factor, b)) for a, b in pairs
    )
