"""A teacher that cannot be read, does not fit or is asked for out of bounds is refused and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from esper_core import leyline
from esper_core.errors import EsperError, IntegrityError, NotFoundError, StateConflictError, ValidationError
from esper_runtime.errors import TeacherOutputError, TeacherTooLargeError
from esper_runtime.ownership import HOST
from support.teaching import same, state_of, taught_by, train
from support.tolaria_runs import letter_spec, open_letter
from tolaria.rundir import RunDirectory
from tolaria.service.submission import check_spec
from tolaria.state.export import export_run
from tolaria.state.teachers import LoadedTeacher
from tolaria.training.plan import TeacherPlan
from tolaria.training.teacher import take_teacher
from tolaria.worker.start import begin_teaching

PLAN = TeacherPlan("", 0.3, 4.0, 1 << 30)


def damaged(source: Path, folder: Path) -> Path:
    copy = folder / "run" / "checkpoints" / source.name
    shutil.copytree(source.parent.parent, folder / "run")
    tensors = copy / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    return copy


def of_another_task(source: Path, folder: Path) -> Path:
    shutil.copytree(source.parent.parent, folder / "run")
    run_dir = RunDirectory(folder / "run")
    request = run_dir.read_request()
    request.spec.task = "digits"
    run_dir.write_request(request)
    return folder / "run" / "checkpoints" / source.name


def exported_for_another_task(source: Path, folder: Path) -> Path:
    export_run(source.parent.parent, folder / "out")
    record = folder / "out" / "topology.json"
    record.write_text(record.read_text().replace('"letter"', '"digits"'))
    return folder / "out"


def exported_without_weights(source: Path, folder: Path) -> Path:
    export_run(source.parent.parent, folder / "out")
    (folder / "out" / "model.safetensors").unlink()
    return folder / "out"


def out_of_its_run(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "alone" / "checkpoints" / source.name))


BAD = [
    (damaged, IntegrityError, "does not match its digest"),
    (of_another_task, ValidationError, "trained for the task 'digits'"),
    (exported_for_another_task, ValidationError, "trained for the task 'digits'"),
    (exported_without_weights, StateConflictError, "cannot be read"),
    (out_of_its_run, NotFoundError, "esper run export"),
    (lambda source, folder: folder, NotFoundError, "neither a checkpoint"),
]


@pytest.mark.req("KAS-18")
@pytest.mark.parametrize(("make", "kind", "told"), BAD)
def test_a_folder_that_holds_no_teacher_is_refused_and_the_host_is_as_it_was(
    source: Path, tmp_path: Path, make: Callable[[Path, Path], Path], kind: type[EsperError], told: str
) -> None:
    session = open_letter(letter_spec(teacher=taught_by(make(source, tmp_path))))
    before = state_of(session)
    with pytest.raises(kind, match=told):
        begin_teaching(session)
    assert same(before, state_of(session))
    assert session.distillation is None and session.host.ownership.owners() == (HOST,)


def filled_with(value: float) -> nn.Module:
    model = nn.Linear(16, 26)
    nn.init.constant_(model.weight, value)
    return model


@pytest.mark.req("KAS-18")
@pytest.mark.parametrize(
    ("model", "plan", "kind"),
    [
        (nn.Linear(16, 26), replace(PLAN, memory_bytes=4 * 17 * 26 - 1), TeacherTooLargeError),
        (nn.Linear(16, 5), PLAN, TeacherOutputError),
        (nn.Linear(3, 26), PLAN, TeacherOutputError),
        (filled_with(float("nan")), PLAN, TeacherOutputError),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_and_the_host_is_as_it_was(
    model: nn.Module, plan: TeacherPlan, kind: type[EsperError]
) -> None:
    session = open_letter()
    train(session, 2)
    before = state_of(session)
    with pytest.raises(kind):
        take_teacher(session, plan, LoadedTeacher("misfit", model))
    assert same(before, state_of(session))
    assert session.distillation is None and session.host.ownership.owners() == (HOST,)


BOUNDS = [
    ({"source": ""}, "spec.teacher.source"),
    ({"source": "/nowhere"}, "spec.teacher.source"),
    ({"weight": -0.1}, "spec.teacher.weight"),
    ({"weight": float("nan")}, "spec.teacher.weight"),
    ({"weight": 101.0}, "spec.teacher.weight"),
    ({"temperature": 0.0}, "spec.teacher.temperature"),
    ({"temperature": float("inf")}, "spec.teacher.temperature"),
    ({"memory_bytes": 2**60}, "spec.teacher.memory_bytes"),
]


@pytest.mark.parametrize(("change", "field"), BOUNDS)
def test_a_request_out_of_bounds_is_refused_with_what_is_allowed(
    source: Path, change: dict[str, object], field: str
) -> None:
    fields = {"source": str(source), **change}
    spec = letter_spec(teacher=leyline.TeacherSpec(**fields))  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as refused:
        check_spec(spec)
    assert refused.value.field == field and refused.value.allowed
    if not {"memory_bytes", "source"} & change.keys():
        with pytest.raises(ValidationError):
            open_letter(spec)


def test_what_is_left_out_takes_the_usual_values(source: Path) -> None:
    plan = open_letter(letter_spec(teacher=taught_by(source))).plan.teacher
    assert plan == TeacherPlan(str(source), 0.3, 4.0, 1 << 30)
    check_spec(letter_spec(teacher=taught_by(source), gradient_aggregation="pcgrad"))
