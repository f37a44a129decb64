"""What a teacher costs is counted, projected with the rest where gradients meet, and told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from esper_core import leyline
from esper_runtime.distillation import memory_of
from support.metered import metered
from support.teaching import student, taught_by, train
from support.tolaria_grown import perform, shadow
from support.tolaria_runs import SEED, SmallRun, attach, letter_spec, prepare_kernel, small_run
from tolaria.aggregation.pool import Met
from tolaria.aggregation.projection import add_up, weigh
from tolaria.training.loop import TrainingLoop
from tolaria.training.optimizer import group_name
from tolaria.training.session import Session
from tolaria.training.step import training_step
from tolaria.worker.start import begin_teaching


def plant_in_shadow(run: SmallRun) -> None:
    prepare_kernel(run.session, run.links, SEED)
    perform(run, attach(run.session, SEED))
    shadow(run)


@pytest.mark.req("KAS-18")
@pytest.mark.parametrize("aggregation", ["sum", "pcgrad"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("in_shadow", [False, True])
def test_the_flops_of_a_teacher_are_counted_in_the_budget(
    source: Path, tmp_path: Path, aggregation: str, parts: int, in_shadow: bool
) -> None:
    changes = {"gradient_aggregation": aggregation, "gradient_accumulation": parts}
    run = small_run(tmp_path, letter_spec(teacher=taught_by(source), **changes))
    session = run.session
    change = begin_teaching(session)
    assert change is not None and change.flops_per_step > 0
    if in_shadow:
        plant_in_shadow(run)
    training_step(session, 4.0)
    cost, spent = session.cost.step, session.counters.flops
    with FlopCounterMode(display=False) as counter:
        result = training_step(session, 4.0)
    projecting = counter.get_total_flops() - cost
    sizes = {group_name(group): sum(one.numel() for one in group["params"]) for group in session.optimizer.param_groups}
    rows = session.losses_apart
    compared = 2 * rows * rows * sum(sizes.values()) if rows > 1 else 0
    added_up = sum(2 * rows * sizes[owner] for owner, met in result.met.items() if met.conflicts)
    assert projecting == compared + added_up
    assert session.counters.flops == spent + cost
    run.events.close()


def projected_by_hand(session: Session) -> tuple[torch.Tensor, Met]:
    """Project the gradients of both losses of the first batch."""
    batch, parameters = session.next_batch(), list(session.host.model.parameters())
    outputs, rows = session.host.model(batch.inputs), []
    assert session.distillation is not None
    taught = session.distillation.loss(outputs, session.distillation.answer(batch.inputs))
    for loss in (F.cross_entropy(outputs, batch.targets), taught):
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    stacked = torch.stack(rows)
    weighed = weigh((stacked @ stacked.T).tolist(), random.Random("7/0"))
    return add_up(stacked, weighed), Met(weighed.conflicts, 1)


@pytest.mark.req("KAS-18", "TOL-30")
def test_where_gradients_are_projected_the_teachers_loss_meets_the_hosts(source: Path) -> None:
    plain, met = student(source, 2.0), student(source, 2.0, gradient_aggregation="pcgrad")
    assert (plain.losses_apart, met.losses_apart) == (1, 2)
    expected, meeting = projected_by_hand(plain)
    result = training_step(met, 4.0)
    found = torch.cat([one.grad.flatten() for one in met.host.model.parameters() if one.grad is not None])
    torch.testing.assert_close(found, expected)
    assert result.met == {"host": meeting}
    assert {one.conflict_rate for one in train(met, 40)} <= {0.0, 1.0}


@pytest.mark.req("KAS-18")
async def test_what_a_teacher_costs_and_its_loss_are_told(taught: SmallRun) -> None:
    told = taught.events.last(leyline.RUN_EVENT_KIND_TEACHER)
    session, loop = taught.session, TrainingLoop(taught.parts)
    assert told is not None and session.distillation is not None
    assert told.teacher.memory_bytes == memory_of(session.distillation.teacher)
    loop.turn()
    taught.parts.reporter.progressed()
    progress = taught.events.last(leyline.RUN_EVENT_KIND_PROGRESS)
    assert progress is not None and progress.progress.distillation_loss > 0
    heard = await metered([told, progress])
    points = {point.name: point.value for point in heard.points}
    assert points["tolaria.distillation.loss"] == progress.progress.distillation_loss
    assert points["tolaria.distillation.teacher_bytes"] == told.teacher.memory_bytes
    assert points["tolaria.distillation.flops_per_step"] == told.teacher.flops_per_step
    assert [event.name for event in heard.events] == ["teacher_registered"]
