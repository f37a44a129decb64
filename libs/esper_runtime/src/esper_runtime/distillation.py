"""A frozen teacher beside the host, and the loss by which the host learns from it."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime.errors import NoTeacherError, TeacherOutputError, TeacherTooLargeError
from esper_runtime.ownership import OwnershipRegistry, teacher_owner
from esper_runtime.sites import call_model

TEMPERATURE: Final = 4.0
WEIGHT: Final = 0.3
BUDGET_BYTES: Final = 1 << 30


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return T² KL between both at temperature T, averaged over everything but the classes.

    The divergence is that of the student's distribution from the teacher's, as in Hinton et al., "Distilling the
    Knowledge in a Neural Network" (2015); T² keeps the size of the gradients independent of the temperature.

    Parameters
    ----------
    student, teacher : Tensor
        Logits of one shape, classes last; no gradient flows into the teacher's.
    temperature : float
        T, above 0.

    Raises
    ------
    TeacherOutputError
        If the shapes differ.
    """
    if student.shape != teacher.shape:
        raise _misfit(f"with logits of shape {tuple(teacher.shape)}", student)
    log_student = F.log_softmax(student.flatten(0, -2) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.detach().flatten(0, -2) / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def check_answer(student: object, teacher: object) -> None:
    """Refuse a teacher whose answer to some real inputs is nothing that a student could learn from.

    Parameters
    ----------
    student, teacher : object
        What both answer to the same inputs.

    Raises
    ------
    TeacherOutputError
        If one of them is no tensor of logits, the shapes differ, or the teacher's numbers are not finite.
    """
    if not isinstance(student, Tensor) or student.dim() < 2 or student.shape[-1] < 2:
        raise TeacherOutputError(
            "A host learns from a teacher by its logits, and this one answers with something else.",
            field="teacher",
            allowed="a host that answers with one tensor of logits, classes last",
        )
    if not isinstance(teacher, Tensor):
        raise _misfit(f"with {type(teacher).__name__}", student)
    if teacher.shape != student.shape:
        raise _misfit(f"with logits of shape {tuple(teacher.shape)}", student)
    if not bool(teacher.isfinite().all()):
        raise _misfit("with numbers that are not finite", student)


def memory_of(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers, each once."""
    tensors = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def check_memory(teacher: str, needed_bytes: int, budget_bytes: int) -> None:
    """Refuse a teacher that takes more than its budget; whoever knows its size beforehand need not build it for that.

    Raises
    ------
    TeacherTooLargeError
        If it takes more.
    """
    if needed_bytes > budget_bytes:
        raise TeacherTooLargeError(
            f"Teacher {teacher!r} takes {needed_bytes} bytes; use a smaller one, or raise the budget.",
            field="teacher",
            allowed=f"at most {budget_bytes} bytes",
        )


class Distillation:
    """Holds at most one teacher.

    Parameters
    ----------
    ownership : OwnershipRegistry
        The host's registry, so that no parameter is a teacher's and somebody else's.
    budget_bytes : int
        Most memory that a teacher's parameters and buffers may take.
    weight : float
        Factor on the loss, at least 0.
    temperature : float
        T, above 0.

    Raises
    ------
    ValueError
        If a number is out of bounds.
    """

    def __init__(
        self,
        ownership: OwnershipRegistry,
        *,
        budget_bytes: int = BUDGET_BYTES,
        weight: float = WEIGHT,
        temperature: float = TEMPERATURE,
    ) -> None:
        if budget_bytes < 0 or not 0 <= weight < math.inf or not 0 < temperature < math.inf:
            raise ValueError("budget and weight must be at least 0 and the temperature above 0, all of them finite")
        self._ownership = ownership
        self._budget_bytes = budget_bytes
        self._weight = weight
        self._temperature = temperature
        self._teacher_id = ""
        self._teacher: nn.Module | None = None

    @property
    def teacher_id(self) -> str:
        """Id of the teacher, "" when there is none."""
        return self._teacher_id

    @property
    def teacher(self) -> nn.Module:
        """The teacher itself, to be read only.

        Raises
        ------
        NoTeacherError
            If there is none.
        """
        if self._teacher is None:
            raise NoTeacherError("There is no teacher to learn from; register one first.")
        return self._teacher

    @property
    def asked(self) -> bool:
        """Whether there is a teacher whose answers count; at weight 0 they don't, and it need not be asked."""
        return self._teacher is not None and self._weight > 0

    def register(self, teacher_id: str, teacher: nn.Module) -> None:
        """Take a teacher in place of the former one; it is frozen and put into evaluation mode.

        A teacher that is refused is left as it was, and so is the former one.

        Raises
        ------
        TeacherTooLargeError
            If it takes more memory than the budget.
        OwnershipConflictError
            If one of its parameters belongs to the host or a seed.
        """
        check_memory(teacher_id, memory_of(teacher), self._budget_bytes)
        owner = teacher_owner(teacher_id)
        self._ownership.register(owner, ((f"{owner}/{name}", one) for name, one in teacher.named_parameters()))
        self._teacher_id, self._teacher = teacher_id, teacher.requires_grad_(False).eval()

    def answer(self, inputs: Any) -> Any:
        """Return what the teacher answers to a batch of inputs; no gradient flows back.

        Raises
        ------
        NoTeacherError
            If there is no teacher.
        """
        with torch.no_grad():
            return call_model(self.teacher, inputs)

    def loss(self, student: Tensor, answer: Tensor) -> Tensor:
        """Return the distillation loss of the student's logits from the teacher's answer, times the weight.

        Raises
        ------
        TeacherOutputError
            If the answer does not have the shape of the student's logits.
        """
        return self._weight * distillation_loss(student, answer, self._temperature)

    def reset(self) -> bool:
        """Let the teacher go, and say whether there was one."""
        had_teacher = self._teacher is not None
        if had_teacher:
            self._ownership.release(teacher_owner(self._teacher_id))
        self._teacher_id, self._teacher = "", None
        return had_teacher


def _misfit(answer: str, student: Tensor) -> TeacherOutputError:
    return TeacherOutputError(
        f"The teacher answers {answer}; use one that was trained for the same classes on the same inputs.",
        field="teacher",
        allowed=f"finite logits of shape {tuple(student.shape)}",
    )
