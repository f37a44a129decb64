"""gRPC adapter of the orchestrator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc.aio

from esper_core.errors import UnimplementedError
from esper_core.ids import new_ulid
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2, weatherlight_pb2_grpc
from esper_core.rpc import caller
from weatherlight.convert import emergency_routing, service_status, system_status
from weatherlight.emergencies import Emergency
from weatherlight.orchestrator import Orchestrator

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OrchestratorServicer(weatherlight_pb2_grpc.OrchestratorServicer):
    """Serves `esper.weatherlight.v1.Orchestrator`.

    Parameters
    ----------
    orchestrator : Orchestrator
        Knows and decides.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator

    async def GetSystem(  # noqa: D102
        self, request: weatherlight_pb2.GetSystemRequest, context: Context
    ) -> weatherlight_pb2.SystemStatus:
        return system_status(self._orchestrator.system())

    async def WatchSystem(  # noqa: D102
        self, request: weatherlight_pb2.WatchSystemRequest, context: Context
    ) -> AsyncIterator[weatherlight_pb2.SystemStatus]:
        async for view in self._orchestrator.watch():
            yield system_status(view)

    async def SetMode(  # noqa: D102
        self, request: weatherlight_pb2.SetModeRequest, context: Context
    ) -> weatherlight_pb2.SystemStatus:
        return system_status(await self._orchestrator.set_mode(request.mode, request.reason))

    async def RaiseEmergency(  # noqa: D102
        self, request: weatherlight_pb2.RaiseEmergencyRequest, context: Context
    ) -> weatherlight_pb2.EmergencyRouting:
        raised = Emergency(new_ulid(), request.level, request.reason, caller().subject, request.training_run_id)
        return emergency_routing(await self._orchestrator.raise_here(raised))

    async def ClearEmergency(  # noqa: D102
        self, request: weatherlight_pb2.ClearEmergencyRequest, context: Context
    ) -> weatherlight_pb2.EmergencyRouting:
        return emergency_routing(await self._orchestrator.clear(request.training_run_id, request.reason))

    async def Drill(  # noqa: D102
        self, request: weatherlight_pb2.DrillRequest, context: Context
    ) -> weatherlight_pb2.DrillReport:
        raise UnimplementedError("Drills come in a later release; until then kill a process by hand and watch.")

    async def RestartService(  # noqa: D102
        self, request: weatherlight_pb2.RestartServiceRequest, context: Context
    ) -> weatherlight_pb2.ServiceStatus:
        return service_status(await self._orchestrator.restart(request.name))
