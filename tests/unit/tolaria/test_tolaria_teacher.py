"""A run learns from a frozen teacher, pays for it, and lets it go for good; one that does not fit changes nothing."""

from __future__ import annotations

import gc
import random
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from esper_core import leyline
from esper_core.errors import EsperError, IntegrityError, NotFoundError, StateConflictError, ValidationError
from esper_core.ids import new_run_id
from esper_core.telemetry import TelemetryEmitter
from esper_runtime.distillation import distillation_loss, memory_of
from esper_runtime.errors import TeacherOutputError, TeacherTooLargeError
from esper_runtime.export import load_exported
from esper_runtime.ownership import HOST, teacher_owner
from support.teaching import ended_run, taught_by
from support.tolaria_runs import (
    SmallRun,
    attach,
    directive,
    letter_spec,
    open_letter,
    prepare_kernel,
    set_stage,
    small_run,
)
from support.waiting import wait_until
from tolaria.aggregation.pool import Met
from tolaria.aggregation.projection import add_up, weigh
from tolaria.growth.executor import DirectiveExecutor
from tolaria.reporting.metering import meter
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.service.submission import check_spec
from tolaria.settings import WorkerSettings
from tolaria.state.capture import capture_session, restore_session
from tolaria.state.export import export_run
from tolaria.state.teachers import LoadedTeacher, load_teacher
from tolaria.training.fence import Ending
from tolaria.training.links import Greeting, GreetingWanted, TeacherDismissed
from tolaria.training.loop import TrainingLoop
from tolaria.training.optimizer import group_name
from tolaria.training.plan import TeacherPlan
from tolaria.training.session import Session
from tolaria.training.step import StepResult, training_step
from tolaria.training.teacher import take_teacher
from tolaria.worker.run import work
from tolaria.worker.start import begin_teaching

SEED = "01M7YZA3SEEM54XTFHCAEHJ41J/hidden1/0"
PLAN = TeacherPlan("", 0.3, 4.0, 1 << 30)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ended_run(tmp_path_factory.mktemp("teacher"))


def student(source: Path, weight: float | None = None, **changes: object) -> Session:
    session = open_letter(letter_spec(teacher=taught_by(source, weight=weight), **changes), run_id="run")
    change = begin_teaching(session)
    assert change is not None and change.teacher_id == session.teacher_id
    return session


def train(session: Session, steps: int) -> list[StepResult]:
    return [training_step(session, 4.0) for _ in range(steps)]


def state_of(session: Session) -> dict[str, Tensor]:
    snapshot = capture_session(session, 0.0)
    moments = snapshot.optimizer.tensors if snapshot.optimizer else {}
    flat = {f"{name}/{key}": tensor for name, held in moments.items() for key, tensor in held.items()}
    return {**snapshot.parameters, **snapshot.buffers, **flat, "random": snapshot.random.torch_cpu}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


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


def shadowed(session: Session, run: SmallRun) -> None:
    executor = DirectiveExecutor(run.parts.operations, lambda: session.counters.step)
    prepare_kernel(session, run.links, SEED)
    assert executor.apply(attach(session, SEED)).applied
    stage = leyline.SetStage(stage=leyline.SEED_STAGE_TRAINING, isolation=leyline.ISOLATION_MODE_SHADOW)
    assert executor.apply(directive(session, SEED, leyline.DIRECTIVE_KIND_SET_STAGE, set_stage=stage)).applied


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
        shadowed(session, run)
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
@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation": 2, "gradient_aggregation": "pcgrad"}])
def test_a_run_with_a_teacher_is_resumed_and_rolled_back_bit_for_bit(source: Path, changes: dict[str, object]) -> None:
    session = student(source, **changes)
    train(session, 5)
    kept, snapshot = state_of(session), capture_session(session, 0.0)
    course = train(session, 8)
    restore_session(session, snapshot)
    assert same(kept, state_of(session))
    assert session.host.ownership.owners() == (HOST, teacher_owner(session.teacher_id))
    other = open_letter(letter_spec(teacher=taught_by(source), **changes), run_id="run")
    restore_session(other, snapshot)
    begin_teaching(other)
    for resumed in (session, other):
        again = train(resumed, 8)
        assert [(one.loss, one.distillation_loss) for one in again] == [
            (one.loss, one.distillation_loss) for one in course
        ]
    assert same(state_of(session), state_of(other))


@pytest.fixture
def taught(source: Path, tmp_path: Path) -> Iterator[SmallRun]:
    run = small_run(tmp_path, letter_spec(teacher=taught_by(source)))
    change = begin_teaching(run.session)
    assert change is not None
    run.parts.reporter.tell(change)
    yield run
    run.events.close()


@pytest.mark.req("KAS-13", "KAS-18")
def test_a_reset_drops_the_teacher_from_memory_registry_and_loss_and_is_told(taught: SmallRun) -> None:
    session, loop = taught.session, TrainingLoop(taught.parts)
    loop.turn()
    teacher_id, with_teacher = session.teacher_id, session.cost.step
    assert session.distillation is not None
    held = weakref.ref(session.distillation.teacher)
    taught.links.inbox.post(TeacherDismissed("another", "It is not there."))
    loop.turn()
    assert session.teacher_id == teacher_id
    taught.links.inbox.post(TeacherDismissed(teacher_id, "It teaches nonsense."))
    taught.links.inbox.post(TeacherDismissed(teacher_id, "It teaches nonsense."))
    taught.links.inbox.post(GreetingWanted())
    loop.turn()
    gc.collect()
    assert held() is None
    assert session.host.ownership.owners() == (HOST,)
    assert session.cost.step < with_teacher and session.asked_teacher is None
    assert training_step(session, 4.0).distillation_loss is None
    (greeting,) = [item for item in taught.links.to_kasmina.take() if isinstance(item, Greeting)]
    assert greeting.teacher_id == ""
    told = taught.events.last(leyline.RUN_EVENT_KIND_TEACHER)
    assert told is not None and told.teacher.reason == "It teaches nonsense."
    assert (told.teacher.teacher_id, told.teacher.takes_part) == (teacher_id, False)


@pytest.mark.req("KAS-13")
def test_a_dismissed_teacher_never_comes_back_and_another_one_is_not_taken_for_it(
    source: Path, taught: SmallRun
) -> None:
    told = taught.events.last(leyline.RUN_EVENT_KIND_TEACHER)
    assert told is not None
    resumed = open_letter(letter_spec(teacher=taught_by(source)))
    gone = leyline.TeacherChange(teacher_id=told.teacher.teacher_id, takes_part=False)
    assert begin_teaching(resumed, gone) is None and resumed.distillation is None
    other = leyline.TeacherChange(teacher_id="another", takes_part=True)
    with pytest.raises(StateConflictError, match="has learned from another"):
        begin_teaching(resumed, other)
    assert begin_teaching(resumed, told.teacher) == told.teacher


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
    packets: list[leyline.TelemetryPacket] = []

    async def keep(packet: leyline.TelemetryPacket) -> None:
        packets.append(packet)

    emitter = TelemetryEmitter("tolaria", keep)
    for event in (told, progress):
        meter(emitter, event)
    assert await emitter.flush()
    points = {point.name: point.value for packet in packets for point in packet.metrics}
    assert points["tolaria.distillation.loss"] == progress.progress.distillation_loss
    assert points["tolaria.distillation.teacher_bytes"] == told.teacher.memory_bytes
    assert points["tolaria.distillation.flops_per_step"] == told.teacher.flops_per_step
    assert [event.name for packet in packets for event in packet.events] == ["teacher_registered"]


def weights(run_dir: RunDirectory) -> bytes:
    (final,) = run_dir.checkpoints_path.glob("*-final")
    return (final / "tensors.safetensors").read_bytes()


def worked(run_dir: RunDirectory, source: Path, train: Callable[[TrainingLoop], Ending] = TrainingLoop.run) -> None:
    """Let a worker take a run to its end, from its beginning or from where it was left."""
    if not run_dir.path.exists():
        spec = letter_spec(teacher=taught_by(source), max_steps=24, checkpoint_interval_steps=10)
        run_dir.write_request(RunRequest(new_run_id(), spec, datetime.now(UTC)))
    assert work(run_dir, WorkerSettings(final_fence_s=0.2), train) == 0


def turned(loop: TrainingLoop, until: int) -> TrainingLoop:
    while loop.session.counters.step < until:
        loop.turn()
    return loop


def leave_copy(run_dir: RunDirectory, left: RunDirectory) -> None:
    """Copy what a worker would leave that was killed now."""
    checkpoint = run_dir.checkpoints_path / "0000000010-interval"
    wait_until(checkpoint.exists, 10.0, what="the checkpoint of step 10")
    shutil.copytree(run_dir.path, left.path, ignore=shutil.ignore_patterns("*.tmp"))


@pytest.mark.req("KAS-18")
def test_a_worker_that_takes_a_run_up_again_goes_on_learning_from_the_teacher(source: Path, tmp_path: Path) -> None:
    straight, left = RunDirectory(tmp_path / "straight"), RunDirectory(tmp_path / "left")

    def leave_behind(loop: TrainingLoop) -> Ending:
        turned(loop, 17)
        leave_copy(straight, left)
        return loop.run()

    worked(straight, source, leave_behind)
    worked(left, source)
    status = left.read_status()
    assert status is not None and status.result.resumes == 1
    assert weights(straight) == weights(left)


@pytest.mark.req("KAS-13")
def test_a_reset_outlives_a_crash_before_the_next_checkpoint(source: Path, tmp_path: Path) -> None:
    run_dir, left = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "left")

    def dismiss(loop: TrainingLoop) -> Ending:
        turned(loop, 12).links.inbox.post(TeacherDismissed(loop.session.teacher_id, "It teaches nonsense."))
        turned(loop, 17)
        leave_copy(run_dir, left)
        return loop.run()

    seen: list[str] = []

    def look(loop: TrainingLoop) -> Ending:
        assert loop.session.counters.step == 10
        seen.append(turned(loop, 11).session.teacher_id)
        return loop.run()

    worked(run_dir, source, dismiss)
    worked(left, source, look)
    assert seen == [""]
