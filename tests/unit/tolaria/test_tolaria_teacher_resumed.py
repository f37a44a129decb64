"""A run that is taken up again goes on learning from its teacher; one that was dismissed is gone for good."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import StateConflictError
from esper_core.ids import new_run_id
from esper_runtime.ownership import HOST, teacher_owner
from support.teaching import same, state_of, student, taught_by, train
from support.tolaria_runs import SmallRun, letter_spec, open_letter
from support.waiting import wait_until
from tolaria.rundir import RunDirectory, RunRequest
from tolaria.settings import WorkerSettings
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.fence import Ending
from tolaria.training.links import Greeting, GreetingWanted, TeacherDismissed
from tolaria.training.loop import TrainingLoop
from tolaria.training.step import training_step
from tolaria.worker.run import work
from tolaria.worker.start import begin_teaching


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
