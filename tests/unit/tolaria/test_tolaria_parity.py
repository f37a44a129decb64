"""The epoch runner adds nothing to the arithmetic: to the bit it is the loop that everybody writes first.

The recorded courses in golden_courses.json hold it to what it did when they were written, on whatever machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from esper_core.leyline import LearningRateSpec, OptimizerSpec
from esper_tasks import load_task
from support.tolaria_runs import letter_spec, small_run
from tolaria.training.loop import TrainingLoop

GOLDEN = Path(__file__).with_name("golden_courses.json")
STEPS = 130
"""More than one epoch of Letter, whose order changes then."""
COURSES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": OptimizerSpec(name="adam", learning_rate=5e-3)},
    "sgd": {"optimizer": OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=1e-4)},
}


def managed(folder: Path, course: str) -> tuple[list[float], list[torch.Tensor]]:
    spec = letter_spec(max_steps=STEPS, learning_rate=LearningRateSpec(policy="cosine"), **COURSES[course])
    run, losses = small_run(folder, spec), []
    loop = TrainingLoop(run.parts)
    while loop.turn() is None:
        losses.append(run.parts.reporter.record().metrics["loss"])
    assert run.session.epoch == 1
    run.events.close()
    return losses, [parameter.detach() for parameter in run.session.host.model.parameters()]


def bare(course: str) -> tuple[list[float], list[torch.Tensor]]:
    task, given, losses = load_task("letter"), COURSES[course]["optimizer"], []
    model, sampler = task.build_model(7), task.data(7).sampler(task.default_spec().batch_size)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[course]
    extra = {"momentum": given.momentum} if course == "sgd" else {}
    optimizer: Any = kind(model.parameters(), lr=0.0, weight_decay=given.weight_decay, fused=True, **extra)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = given.learning_rate * (0.5 * (1.0 + math.cos(math.pi * step / STEPS)))
        optimizer.zero_grad()
        batch = sampler.next_batch()
        loss = F.cross_entropy(model(batch.inputs), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, [parameter.detach() for parameter in model.parameters()]


@pytest.mark.req("TOL-1")
@pytest.mark.parametrize("course", COURSES)
def test_a_managed_run_is_the_bare_loop_to_the_bit_and_takes_its_recorded_course(course: str, tmp_path: Path) -> None:
    losses, weights = managed(tmp_path, course)
    plain_losses, plain_weights = bare(course)
    assert losses == plain_losses
    assert all(torch.equal(one, other) for one, other in zip(weights, plain_weights, strict=True))
    recorded = json.loads(GOLDEN.read_text())[course]
    assert losses[:: recorded["every"]] == pytest.approx(recorded["losses"], rel=1e-3)
