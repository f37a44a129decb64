"""gRPC adapter of the run service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc.aio
from google.protobuf.json_format import ParseDict

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, from_timestamp
from esper_core.errors import StateConflictError, ValidationError
from esper_core.guard import require_id
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from tolaria.service.chore_process import Chores
from tolaria.service.emergencies import Emergencies, Emergency
from tolaria.service.events import EventDesk
from tolaria.service.runs import RunStore, state_word
from tolaria.service.steering import Steering

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
DEFAULT_LIMIT: Final = 100
_EXPORTABLE: Final = (leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_HALTED)


@dataclass(frozen=True, slots=True)
class RunRooms:
    """What the servicer hands its calls to."""

    store: RunStore
    steering: Steering
    events: EventDesk
    emergencies: Emergencies
    chores: Chores
    allowed_tasks: tuple[str, ...]


class RunServicer(tolaria_pb2_grpc.RunServiceServicer):
    """Serves `esper.tolaria.v1.RunService`.

    Parameters
    ----------
    rooms : RunRooms
        The domain.
    """

    def __init__(self, rooms: RunRooms) -> None:
        self._rooms = rooms

    async def SubmitRun(  # noqa: D102
        self, request: tolaria_pb2.SubmitRunRequest, context: Context
    ) -> leyline.RunStatus:
        if not request.HasField("spec"):
            raise ValidationError("spec is missing.", field="spec", allowed="a RunSpec with version 1 and a task")
        return await self._rooms.steering.submit(require_id("request_id", request.request_id), request.spec)

    async def GetRun(  # noqa: D102
        self, request: tolaria_pb2.GetRunRequest, context: Context
    ) -> leyline.RunStatus:
        return await self._rooms.steering.status(_run_id(request.training_run_id))

    async def ListRuns(  # noqa: D102
        self, request: tolaria_pb2.ListRunsRequest, context: Context
    ) -> tolaria_pb2.ListRunsResponse:
        runs = await self._rooms.steering.list(request.limit or DEFAULT_LIMIT)
        return tolaria_pb2.ListRunsResponse(runs=runs)

    async def WatchRun(  # noqa: D102
        self, request: tolaria_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[leyline.RunEvent]:
        run_id = _run_id(request.training_run_id)
        async for event in self._rooms.events.events(run_id, request.after_sequence, follow=request.follow):
            yield event

    async def PauseRun(  # noqa: D102
        self, request: tolaria_pb2.PauseRunRequest, context: Context
    ) -> leyline.RunStatus:
        return await self._rooms.steering.pause(_run_id(request.training_run_id), request.reason)

    async def ResumeRun(  # noqa: D102
        self, request: tolaria_pb2.ResumeRunRequest, context: Context
    ) -> leyline.RunStatus:
        return await self._rooms.steering.resume(_run_id(request.training_run_id))

    async def HaltRun(  # noqa: D102
        self, request: tolaria_pb2.HaltRunRequest, context: Context
    ) -> leyline.RunStatus:
        return await self._rooms.steering.halt(_run_id(request.training_run_id), request.reason)

    async def RollbackRun(  # noqa: D102
        self, request: tolaria_pb2.RollbackRunRequest, context: Context
    ) -> leyline.RollbackReport:
        to_step = request.to_step if request.HasField("to_step") else None
        return await self._rooms.steering.rollback(_run_id(request.training_run_id), to_step, full=request.full)

    async def ListCheckpoints(  # noqa: D102
        self, request: tolaria_pb2.ListCheckpointsRequest, context: Context
    ) -> tolaria_pb2.ListCheckpointsResponse:
        folder = self._rooms.store.directory(_run_id(request.training_run_id)).checkpoints_path
        answer = await self._rooms.chores.do("checkpoints", {"folder": str(folder)})
        found = [ParseDict(row, leyline.CheckpointInfo()) for row in answer["checkpoints"]]
        return tolaria_pb2.ListCheckpointsResponse(checkpoints=found, folder=str(folder))

    async def RaiseEmergency(  # noqa: D102
        self, request: tolaria_pb2.RaiseEmergencyRequest, context: Context
    ) -> tolaria_pb2.EmergencyResponse:
        emergency = Emergency(
            level=request.level,
            reason=_reason(request.reason),
            training_run_id=request.training_run_id,
            signal_id=require_id("signal_id", request.signal_id),
            origin=require_id("origin", request.origin),
            triggered_at=_moment(request),
        )
        return tolaria_pb2.EmergencyResponse(training_run_ids=await self._rooms.emergencies.sound(emergency))

    async def ClearEmergency(  # noqa: D102
        self, request: tolaria_pb2.ClearEmergencyRequest, context: Context
    ) -> tolaria_pb2.EmergencyResponse:
        runs = self._rooms.emergencies.clear(request.training_run_id, _reason(request.reason), request.to_level)
        return tolaria_pb2.EmergencyResponse(training_run_ids=runs)

    async def ExportRun(  # noqa: D102
        self, request: tolaria_pb2.ExportRunRequest, context: Context
    ) -> tolaria_pb2.ExportRunResponse:
        run_id = _run_id(request.training_run_id)
        await self._require_exportable(run_id)
        folder = await asyncio.to_thread(_empty_folder, request.folder)
        answer = await self._rooms.chores.do(
            "export",
            {
                "run_dir": str(self._rooms.store.directory(run_id).path),
                "folder": str(folder),
                "allow": list(self._rooms.allowed_tasks),
            },
        )
        return tolaria_pb2.ExportRunResponse(
            folder=str(folder), files=answer["files"], topology_digest=answer["topology_digest"]
        )

    async def _require_exportable(self, run_id: str) -> None:
        status = await self._rooms.steering.status(run_id)
        if status.state not in _EXPORTABLE:
            raise StateConflictError(
                f"Run {run_id} is {state_word(status.state)}; only one that is COMPLETED or HALTED can be exported. "
                "Halt it first.",
                details={"training_run_id": run_id, "state": state_word(status.state)},
            )


def _run_id(value: str) -> str:
    return require_id("training_run_id", value)


def _reason(value: str) -> str:
    if not value.strip():
        raise ValidationError("An emergency needs a reason.", field="reason", allowed="a sentence")
    return value


def _moment(request: tolaria_pb2.RaiseEmergencyRequest) -> datetime:
    return from_timestamp(request.triggered_at) if request.HasField("triggered_at") else SYSTEM_CLOCK.wall()


def _empty_folder(name: str) -> Path:
    allowed = "the absolute path of a folder that does not exist or is empty"
    folder = Path(name)
    if not name or not folder.is_absolute():
        raise ValidationError(f"{name!r} is no absolute path.", field="folder", allowed=allowed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValidationError(f"{folder} is there already and not empty.", field="folder", allowed=allowed)
    return folder
