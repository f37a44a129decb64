"""A run learns from a frozen teacher: closer than without it, and the same whatever folder the teacher comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from esper_core import leyline
from esper_runtime.distillation import distillation_loss, memory_of
from esper_runtime.errors import TeacherTooLargeError
from esper_runtime.export import load_exported
from support.teaching import same, state_of, student, train
from support.tolaria_runs import SEED, attach, letter_spec, open_letter, prepare_kernel, set_stage, small_run
from tolaria.growth.executor import DirectiveExecutor
from tolaria.state.export import export_run
from tolaria.state.teachers import load_teacher
from tolaria.training.session import Session


def distance(session: Session, teacher: nn.Module) -> float:
    inputs = session.data.test.inputs[:512]
    session.host.model.eval()
    with torch.no_grad():
        found = distillation_loss(session.host.model(inputs), teacher(inputs))
    session.host.model.train()
    return float(found)


@pytest.mark.req("KAS-18")
def test_a_student_comes_closer_to_its_teacher_than_without_it(source: Path) -> None:
    taught, alone = student(source, 5.0), student(source, 0.0)
    teacher = taught.distillation.teacher if taught.distillation else nn.Identity()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    results = train(taught, 60)
    train(alone, 60)
    assert distance(taught, teacher) < 0.5 * distance(alone, teacher)
    told = [result.distillation_loss or 0.0 for result in results]
    assert 0 < sum(told[-5:]) < 0.5 * sum(told[:5])
    assert same(before, teacher.state_dict()) and not teacher.training
    assert all(one.grad is None and not one.requires_grad for one in teacher.parameters())


@pytest.mark.req("KAS-18")
def test_a_teacher_of_no_weight_is_as_none_bit_for_bit(source: Path) -> None:
    bare, mute = open_letter(letter_spec(), run_id="run"), student(source, 0.0)
    assert [result.loss for result in train(bare, 20)] == [result.loss for result in train(mute, 20)]
    assert same(state_of(bare), state_of(mute))
    assert bare.counters == mute.counters


def test_a_checkpoint_and_an_exported_model_teach_the_same_and_take_the_same(source: Path, tmp_path: Path) -> None:
    export_run(source.parent.parent, tmp_path / "out")
    session, inputs = open_letter(), open_letter().data.test.inputs[:64]
    answers = [load_teacher(session, folder, 1 << 20).model.eval()(inputs) for folder in (source, tmp_path / "out")]
    assert torch.equal(*answers)
    teacher = load_exported(tmp_path / "out")
    assert torch.equal(answers[0], teacher(inputs))
    for folder in (source, tmp_path / "out"):
        with pytest.raises(TeacherTooLargeError, match=f"takes {memory_of(teacher)} bytes"):
            load_teacher(session, folder, memory_of(teacher) - 1)


def test_a_grown_run_teaches_with_what_it_kept(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    executor = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    for number, stages in enumerate(((leyline.SEED_STAGE_SHADOWING, leyline.SEED_STAGE_FOSSILIZED), ())):
        seed_id = f"{SEED[:-1]}{number}"
        prepare_kernel(run.session, run.links, seed_id)
        for order in (attach(run.session, seed_id), *(set_stage(run.session, seed_id, stage) for stage in stages)):
            order.generation = run.session.host.generation
            assert executor.apply(order).applied
        train(run.session, 2)
    kept = run.session.host.parameter_count()
    run.parts.keeper.checkpoint("final")
    run.events.close()
    (record,) = run.store.records()
    session = open_letter()
    teacher = load_teacher(session, record.path, 1 << 20).model
    count = sum(parameter.numel() for parameter in teacher.parameters())
    assert session.host.parameter_count() < count < kept
