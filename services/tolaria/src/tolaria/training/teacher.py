"""The teacher of a session: it is there from before the first step until it is dismissed, and never comes back."""

from __future__ import annotations

import torch
from torch import nn

from esper_core import leyline
from esper_runtime.distillation import Distillation, check_answer, memory_of
from esper_runtime.errors import TeacherOutputError
from esper_runtime.sites import call_model
from esper_runtime.undisturbed import undisturbed
from tolaria.state.teachers import LoadedTeacher
from tolaria.training.plan import TeacherPlan
from tolaria.training.session import Session


def take_teacher(session: Session, plan: TeacherPlan, loaded: LoadedTeacher) -> leyline.TeacherChange:
    """Let a session learn from a teacher in its coming steps, and return the news.

    A teacher that is refused leaves the session as it was.

    Raises
    ------
    TeacherOutputError
        If the teacher's answer to real examples does not fit the host's.
    TeacherTooLargeError
        If it takes more memory than the plan gives it.
    """
    before = session.cost.step
    distillation = Distillation(
        session.host.ownership, budget_bytes=plan.memory_bytes, weight=plan.weight, temperature=plan.temperature
    )
    distillation.register(loaded.teacher_id, loaded.model)
    try:
        _try_out(session, loaded.model)
    except TeacherOutputError:
        distillation.reset()
        raise
    session.distillation = distillation
    session.topology_changed()
    return leyline.TeacherChange(
        teacher_id=loaded.teacher_id,
        takes_part=True,
        reason=f"It teaches with weight {plan.weight:g} at temperature {plan.temperature:g}.",
        memory_bytes=memory_of(loaded.model),
        flops_per_step=session.cost.step - before,
    )


def dismiss_teacher(session: Session, teacher_id: str, reason: str) -> leyline.TeacherChange | None:
    """Let a teacher go from memory, registry and loss, and return the news; None where it is not there any more."""
    distillation = session.distillation
    if distillation is None or distillation.teacher_id != teacher_id:
        return None
    distillation.reset()
    session.distillation = None
    session.topology_changed()
    return leyline.TeacherChange(teacher_id=teacher_id, takes_part=False, reason=reason)


def _try_out(session: Session, teacher: nn.Module) -> None:
    model, inputs = session.host.model, session.meter.sample.inputs
    with torch.no_grad(), undisturbed(model):
        student = call_model(model, inputs)
        try:
            answer = call_model(teacher, inputs)
        except RuntimeError as error:
            raise TeacherOutputError(
                f"The teacher cannot take the inputs of {session.plan.task!r}: {error}",
                field="teacher",
                allowed="a teacher that was trained on the same inputs",
            ) from error
    check_answer(student, answer)
