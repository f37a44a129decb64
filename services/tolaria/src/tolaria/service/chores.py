"""Work that needs torch, done by a short-lived process: `python -m tolaria.service.chores NAME`, JSON in, JSON out.

The service itself stays small, and an own task that hangs or breaks takes nobody with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import EsperError, ValidationError
from tolaria.rundir import to_json
from tolaria.service.completion import Defaults, with_defaults

Answer = Mapping[str, Any]


def check(request: Mapping[str, Any]) -> Answer:
    """Open the session that a specification describes, and return what its task takes by default.

    Whatever would end the run at its start ends its submission instead: an unknown task, parameter or site, a batch
    larger than the data, a missing package, a device that isn't there, a teacher that does not fit.
    """
    from esper_tasks import load_task
    from tolaria.training.opening import open_session
    from tolaria.training.planning import resolve_plan
    from tolaria.worker.start import begin_teaching

    spec = ParseDict(request["spec"], leyline.RunSpec())
    try:
        task = load_task(spec.task, allow=request["allow"])
        own = task.default_spec()
        defaults = Defaults(own.batch_size, own.optimizer, own.learning_rate, own.max_epochs, own.flops_budget)
        begin_teaching(open_session(resolve_plan("check", with_defaults(spec, defaults), task), task))
    except EsperError:
        raise
    except Exception as error:
        raise ValidationError(
            f"Task {spec.task!r} cannot be opened: {type(error).__name__}: {error}", field="spec.task"
        ) from error
    return asdict(defaults)


def checkpoints(request: Mapping[str, Any]) -> Answer:
    """Read every checkpoint of a run through, newest first."""
    from tolaria.state.checkpoints import CheckpointRecord, CheckpointStore

    store = CheckpointStore(Path(request["folder"]), 2)

    def described(record: CheckpointRecord) -> Any:
        info = leyline.CheckpointInfo(
            checkpoint_id=record.path.name,
            step=record.step,
            size_bytes=record.size_bytes,
            created_at=to_timestamp(record.created_at),
            reason=record.reason,
        )
        try:
            snapshot = store.read(record.path.name)
        except EsperError as error:
            info.problem = error.message
            return to_json(info)
        info.good, info.generation = True, snapshot.topology.generation
        info.epoch = int(snapshot.cursor["data"]["epoch"])
        return to_json(info)

    return {"checkpoints": [described(record) for record in store.records()]}


def export(request: Mapping[str, Any]) -> Answer:
    """Write the grown model of a run's last good checkpoint to a folder."""
    from tolaria.state.export import export_run

    folder = Path(request["folder"])
    digest = export_run(Path(request["run_dir"]), folder, allow=request["allow"])
    return {"files": sorted(path.name for path in folder.iterdir()), "topology_digest": digest}


CHORES: Final[Mapping[str, Callable[[Mapping[str, Any]], Answer]]] = {
    "check": check,
    "checkpoints": checkpoints,
    "export": export,
}


def main(arguments: list[str]) -> int:
    """Do one chore; the last line of the output is its answer."""
    try:
        answer: Answer = {"answer": CHORES[arguments[0]](json.load(sys.stdin))}
    except EsperError as error:
        answer = {"error": {"code": error.code, "message": error.message, "details": error.details}}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
