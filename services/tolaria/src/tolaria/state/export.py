"""The grown model of a run as plain files, from its last good checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from esper_core.errors import AlreadyExistsError, NotFoundError
from esper_runtime import stages
from esper_runtime.export import export_model
from esper_tasks import load_task
from tolaria.reporting.layers import topology_digest
from tolaria.rundir import RunDirectory
from tolaria.state.capture import restore_session
from tolaria.state.checkpoints import CheckpointStore
from tolaria.training.opening import open_session
from tolaria.training.planning import resolve_plan
from tolaria.training.session import Session

FACTORY: Final = "esper_tasks.building:build_host"


def export_run(run_dir: Path, folder: Path, *, allow: Collection[str] = ()) -> str:
    """Write `model.safetensors` and `topology.json`, which load without Esper's services.

    Seeds that are unsettled in the checkpoint are left out; the host is exported as if they had never been attached.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    folder : Path
        Where to write; must not exist or be empty.
    allow : Collection[str]
        Tasks of the operator's own that may be loaded.

    Returns
    -------
    str
        SHA-256 of the topology record.

    Raises
    ------
    AlreadyExistsError
        If the folder holds something.
    NotFoundError
        If the run has no good checkpoint yet.
    """
    if folder.exists() and any(folder.iterdir()):
        raise AlreadyExistsError(f"{folder} is not empty. Name a folder that is, or that does not exist yet.")
    session = _restored(RunDirectory(run_dir), allow)
    for record in session.host.seeds():
        if record.stage != stages.FOSSILIZED:
            session.host.cull(record.seed_id)
    plan = session.plan
    arguments = {"task": plan.task, "seed": plan.random_seed, "parameters": dict(plan.parameters)}
    export_model(session.host, folder, factory=FACTORY, kwargs=arguments)
    return topology_digest(session.host)


def _restored(run_dir: RunDirectory, allow: Collection[str]) -> Session:
    request = run_dir.read_request()
    task = load_task(request.spec.task, allow=allow)
    session = open_session(resolve_plan(request.run_id, request.spec, task), task)
    snapshot, _ = CheckpointStore(run_dir.checkpoints_path, 2).latest_good()
    if snapshot is None:
        raise NotFoundError(f"Run {request.run_id} has no good checkpoint yet. Wait for one, or halt the run.")
    restore_session(session, snapshot)
    return session
