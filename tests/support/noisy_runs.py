"""A run whose host draws random numbers and counts its passes, and what it is, bit for bit, and what it tells."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from esper_core import leyline
from esper_core.journal import read_journal
from support.metered import metered
from support.tolaria_runs import SEED, SmallRun, attach, prepare_kernel, set_blend, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.state.capture import capture_session
from tolaria.training.loop import TrainingLoop
from tolaria.training.session import Session

TRAINING = (leyline.SEED_STAGE_TRAINING,)
BLENDING = (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING)
KEPT = (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_SHADOWING, leyline.SEED_STAGE_FOSSILIZED)


def noisy_run(folder: Path) -> SmallRun:
    """A run whose host draws random numbers and counts in a buffer at each training pass, as dropout and norms do."""
    made = small_run(folder, evidence_spacing_ms=0.0, evidence_interval_steps=1)
    model = made.session.host.model
    model.register_buffer("passes", torch.zeros(()))

    def disturb(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        if not module.training:
            return inputs
        module.get_buffer("passes").add_(1)
        return (inputs[0] + 0.01 * torch.randn_like(inputs[0]),)

    model.register_forward_pre_hook(disturb)
    made.session.topology_changed()
    made.parts.keeper.start()
    return made


def turns(run: SmallRun, until: int) -> None:
    """Train up to a step."""
    loop = TrainingLoop(run.parts)
    while run.session.counters.step < until:
        assert loop.turn() is None


def executor(run: SmallRun) -> DirectiveExecutor:
    """The real executor of the run's directives."""
    return DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)


def grow(run: SmallRun, *stages: int) -> nn.Module:
    """Attach a seed and take it through stages at the present fence; returns its module."""
    kernel = prepare_kernel(run.session, run.links, SEED)
    assert executor(run).apply(attach(run.session, SEED)).applied
    for stage in stages:
        assert executor(run).apply(set_stage(run.session, SEED, stage)).applied
    if leyline.SEED_STAGE_BLENDING in stages:
        assert executor(run).apply(set_blend(run.session, SEED, 10)).applied
    return kernel.module


def bits(session: Session) -> dict[str, Tensor]:
    """All that a host is, without seeds: weights, buffers, moments, random state."""
    held = capture_session(session, 0.0)
    assert held.optimizer is not None
    moments = {f"{key}/{name}": t for name, kept in held.optimizer.tensors.items() for key, t in kept.items()}
    everything = {**held.parameters, **held.buffers, **moments, "random": held.random.torch_cpu}
    return {name: tensor for name, tensor in everything.items() if "seed:" not in name}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two such are equal in each bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def events(run: SmallRun, field: str) -> list[leyline.RunEvent]:
    """The events of a run with one kind of payload."""
    payloads = read_journal(run.folder.events_path).payloads
    return [event for event in map(leyline.RunEvent.FromString, payloads) if event.HasField(field)]  # type: ignore[arg-type]


async def told_as(events: list[leyline.RunEvent]) -> set[tuple[str, str]]:
    """Names of the counters and telemetry events that follow from run events, counters with their cause or result."""
    heard = await metered(events)
    counted = {(one.name, one.attributes.get("cause", one.attributes.get("result", ""))) for one in heard.points}
    return counted | {(event.name, "") for event in heard.events}
