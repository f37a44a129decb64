"""The teacher of a run, from what a person types to the TeacherSpec that Tolaria takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper_cli.run_client import ENDED, RunClient, last_checkpoint
from esper_cli.run_views import state_word
from esper_cli.stack_client import StackClient
from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from esper_core.ids import parse_run_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc

_MIB: Final = 1 << 20
_RESET_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """What a person may say about a teacher; what is None or 0 is left to Tolaria.

    Parameters
    ----------
    source : str
        Id of a run that has ended, or folder of a checkpoint or of an exported model; empty for no teacher.
    weight, temperature : float or None
        Of its loss.
    memory_mib : int
        Most memory that it may take.
    """

    source: str = ""
    weight: float | None = None
    temperature: float | None = None
    memory_mib: int = 0


def teacher_spec(options: TeacherOptions, runs: RunClient) -> leyline.TeacherSpec | None:
    """Return the request for a teacher, None where none is wanted; a run teaches from its last good checkpoint.

    Raises
    ------
    ValidationError
        If something is said about a teacher but not who it is.
    NotFoundError, StateConflictError
        If there is no such run, it has not ended, or it has no good checkpoint.
    """
    if not options.source:
        if options != TeacherOptions():
            raise ValidationError(
                "It is said how much to learn from a teacher, but not from which.",
                field="--teacher",
                allowed="the id of a run that has ended, or the folder of a checkpoint or of an exported model",
            )
        return None
    return leyline.TeacherSpec(
        source=_folder(options.source, runs),
        weight=options.weight,
        temperature=options.temperature,
        memory_bytes=options.memory_mib * _MIB,
    )


def reset_teacher(stack: StackClient, run_id: str, reason: str) -> bool:
    """Ask Kasmina to let the teacher of a run go; returns whether there was one."""
    with stack.channel("kasmina") as channel:
        request = kasmina_pb2.ResetTeacherRequest(training_run_id=run_id, reason=reason)
        return bool(kasmina_pb2_grpc.ExecutorStub(channel).ResetTeacher(request, timeout=_RESET_S).had_teacher)


def _folder(source: str, runs: RunClient) -> str:
    path = Path(source).expanduser()
    if path.is_dir() or not _is_run_id(source):
        return str(path.absolute())
    state = runs.status(source).state
    if state not in ENDED:
        raise StateConflictError(
            f"Run {source} is {state_word(state)} and cannot teach yet. Wait until it has ended: `esper run watch`."
        )
    return last_checkpoint(runs, source, "nobody can learn from it")


def _is_run_id(text: str) -> bool:
    try:
        parse_run_id(text)
    except ValidationError:
        return False
    return True
