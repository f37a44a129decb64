"""Where a teacher comes from: a checkpoint of a run of the same task, or a model that such a run exported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import nn

from esper_core.errors import NotFoundError, ValidationError
from esper_runtime import export, snapshot_store, stages
from esper_runtime.distillation import check_memory
from esper_runtime.host import Host
from esper_runtime.snapshot import capture_random, restore, restore_random
from esper_runtime.tensorfiles import data_bytes, digest_of
from tolaria.rundir import RunDirectory
from tolaria.training.planning import task_parameters
from tolaria.training.session import Session

_FIELD: Final = "spec.teacher.source"
_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class LoadedTeacher:
    """A model that may teach, on the session's device, and its id: what it came from and which bytes it is made of."""

    teacher_id: str
    model: nn.Module


def load_teacher(session: Session, source: Path, budget_bytes: int) -> LoadedTeacher:
    """Build the teacher that a folder holds; the session and all random state are as before.

    What is too large is not even built: its files tell its size.

    Parameters
    ----------
    session : Session
        The run that shall learn from it.
    source : Path
        Folder of a checkpoint as it lies in the folder of its run, or of an exported model.
    budget_bytes : int
        Most memory that it may take.

    Raises
    ------
    NotFoundError
        If the folder is neither.
    ValidationError
        If it holds a model of another task; TeacherTooLargeError if it is too large.
    IntegrityError, StateConflictError
        If its bytes are damaged, or do not fit the model that the task builds.
    """
    random = capture_random({})
    try:
        if (source / export.TOPOLOGY).is_file():
            name, record, model = source.name, export.TOPOLOGY, _from_export(session, source, budget_bytes)
        else:
            name, record, model = _from_checkpoint(session, source, budget_bytes)
    finally:
        restore_random(random, {})
    return LoadedTeacher(f"{name}@{digest_of(source / record)[:_SHOWN]}", model.to(session.device))


def _from_export(session: Session, folder: Path, budget_bytes: int) -> nn.Module:
    weights = folder / export.WEIGHTS

    def bare_host(**recorded: Any) -> nn.Module:
        # Not the factory that the record names: a file may not choose which code this process runs.
        if set(recorded) != {"task", "seed", "parameters"}:
            raise ValidationError(
                f"{folder} was not exported from a run, so that nothing says which task its model is for.",
                field=_FIELD,
                allowed="a folder that `esper run export` has written",
            )
        _check_task(session, folder, recorded["task"])
        if weights.is_file():  # Whoever reads it tells when it isn't there.
            check_memory(folder.name, data_bytes(weights), budget_bytes)
        return session.task.build_model(recorded["seed"], **recorded["parameters"])

    return export.load_exported(folder, factory=bare_host)


def _from_checkpoint(session: Session, folder: Path, budget_bytes: int) -> tuple[str, str, nn.Module]:
    run_dir = RunDirectory(folder.parent.parent)
    if not (folder / snapshot_store.MANIFEST).is_file() or not (run_dir.path / "spec.json").is_file():
        raise NotFoundError(
            f"{folder} is neither a checkpoint in the folder of its run nor an exported model. "
            "Export the teacher with `esper run export` and give that folder."
        )
    request = run_dir.read_request()
    _check_task(session, folder, request.spec.task)
    snapshot = snapshot_store.read_snapshot(folder)
    # Of a file that is mapped, so that asking for the sizes reads none of it into memory.
    tensors = (*snapshot.parameters.values(), *snapshot.buffers.values())
    check_memory(folder.name, sum(tensor.nbytes for tensor in tensors), budget_bytes)
    model = session.task.build_model(request.spec.random_seed, **task_parameters(request.spec.parameters))
    host = Host(model, list(session.task.sites(model)), session.meter.sample.inputs.cpu())
    restore(host, replace(snapshot, random=capture_random({}), optimizer=None))
    for record in host.seeds():
        if record.stage != stages.FOSSILIZED:
            host.cull(record.seed_id)
    return f"{request.run_id}/{folder.name}", snapshot_store.MANIFEST, host.model


def _check_task(session: Session, folder: Path, task: str) -> None:
    if task != session.plan.task:
        raise ValidationError(
            f"The teacher in {folder} was trained for the task {task!r} and cannot teach {session.plan.task!r}.",
            field=_FIELD,
            allowed=f"a model that was trained for {session.plan.task!r}",
        )
