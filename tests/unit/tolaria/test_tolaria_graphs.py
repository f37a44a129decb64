"""Captured graphs, as far as a CPU can show it: when they are used, made anew and given up, and that losses are own.

A stand-in captures as CUDA does: it reads its inputs from memory of its own and knows the model of that moment only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper_core import leyline
from esper_core.errors import ConfigurationError
from support.tolaria_runs import SEED, attach, letter_spec, open_letter, prepare_kernel, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.training.graphs import CapturedModel, capture_model
from tolaria.training.session import Session
from tolaria.training.step import training_step


class StandIn:
    """Captures, and counts replays."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, model: nn.Module, sample: Tensor) -> Callable[[Tensor], Tensor]:
        memory = sample.clone()

        def replay(inputs: Tensor) -> Tensor:
            self.replays += 1
            memory.copy_(inputs)
            outputs: Tensor = model(memory)
            return outputs

        return replay


def captured(session: Session, told: list[str] | None = None) -> tuple[CapturedModel, StandIn]:
    stand_in = StandIn()
    session.captured = CapturedModel(session.host, stand_in, (told if told is not None else []).append)
    return session.captured, stand_in


@pytest.mark.req("TOL-37")
def test_weights_after_many_replays_and_every_loss_are_those_of_eager_steps() -> None:
    plain, session = open_letter(), open_letter()
    model, stand_in = captured(session)
    losses = [(training_step(plain, 4.0).loss, training_step(session, 4.0).loss) for _ in range(12)]
    assert all(one == other for one, other in losses) and len({loss for loss, _ in losses}) == 12
    pairs = zip(plain.host.model.parameters(), session.host.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert (model.captures, stand_in.replays) == (1, 12)


@pytest.mark.req("TOL-37")
def test_nothing_is_replayed_while_a_seed_is_unsettled_and_every_generation_is_captured_anew(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    model, stand_in = captured(run.session)
    does = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    training_step(run.session, 4.0)
    prepare_kernel(run.session, run.links, SEED)
    assert does.apply(attach(run.session, SEED)).applied
    for stage in (leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_BLENDING, leyline.SEED_STAGE_SHADOWING):
        assert does.apply(set_stage(run.session, SEED, stage)).applied
        training_step(run.session, 4.0)
    assert (model.captures, stand_in.replays) == (1, 1)
    assert does.apply(set_stage(run.session, SEED, leyline.SEED_STAGE_FOSSILIZED)).applied
    for _ in range(2):
        training_step(run.session, 4.0)
    assert (model.captures, stand_in.replays) == (2, 3)
    assert all(parameter.grad is not None for parameter in run.session.host.graft(SEED).seed.parameters())
    run.events.close()


@pytest.mark.req("TOL-37")
def test_inputs_of_another_shape_are_not_replayed() -> None:
    session = open_letter()
    model, stand_in = captured(session)
    inputs = session.next_batch().inputs
    first = model.outputs(inputs)
    assert torch.equal(model.outputs(inputs[:5]), session.host.model(inputs[:5])) and len(first) == len(inputs)
    assert (model.captures, stand_in.replays) == (1, 1)


@pytest.mark.req("TOL-37")
def test_a_capture_that_fails_is_told_once_and_the_run_goes_on_as_it_is() -> None:
    def refuse(model: nn.Module, sample: Tensor) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    session, told = open_letter(), list[str]()
    session.captured = CapturedModel(session.host, refuse, told.append)
    for _ in range(2):
        assert training_step(session, 4.0).problem == ""
    assert len(told) == 1 and "not permitted" in told[0] and session.captured.captures == 0


@pytest.mark.req("TOL-37")
def test_graphs_are_refused_where_they_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="need a CUDA device"):
        small_run(tmp_path, cuda_graphs=True)
    session = open_letter(letter_spec(precision="bfloat16"))
    session.device = torch.device("cuda")
    with pytest.raises(ConfigurationError, match="whole batches in float32"):
        capture_model(session, lambda note: None)
