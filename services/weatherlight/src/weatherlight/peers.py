"""The services that must act in an emergency, over gRPC."""

from __future__ import annotations

from typing import Final

import grpc.aio

from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2, tamiyo_pb2_grpc
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from esper_core.rpc import retrying
from weatherlight.emergencies import Emergency

ACT_WITHIN_S: Final = 10.0


class GrpcPeers:
    """Tolaria and Tamiyo; every call is repeated for a while, since both keep what they were told by signal id.

    Parameters
    ----------
    tolaria, tamiyo : grpc.aio.Channel
        Channels to the services.
    """

    def __init__(self, tolaria: grpc.aio.Channel, tamiyo: grpc.aio.Channel) -> None:
        self._tolaria = tolaria_pb2_grpc.RunServiceStub(tolaria)
        self._tamiyo = tamiyo_pb2_grpc.ControllerStub(tamiyo)

    async def halt_runs(self, emergency: Emergency) -> list[str]:
        """Have the runs concerned stop at the next fence with a checkpoint."""
        return await self._raise(emergency)

    async def warn_runs(self, emergency: Emergency) -> list[str]:
        """Have the runs concerned take note."""
        return await self._raise(emergency)

    async def clear_runs(self, training_run_id: str, reason: str) -> list[str]:
        """Have the runs concerned forget their emergency."""
        request = tolaria_pb2.ClearEmergencyRequest(training_run_id=training_run_id, reason=reason)
        answer = await retrying(
            lambda timeout: self._tolaria.ClearEmergency(request, timeout=timeout),
            deadline_s=ACT_WITHIN_S,
            peer="tolaria",
        )
        return list(answer.training_run_ids)

    async def set_conservative(self, training_run_id: str, reason: str, *, enabled: bool) -> None:
        """Switch Tamiyo's conservative mode."""
        request = tamiyo_pb2.SetConservativeModeRequest(enabled=enabled, reason=reason, training_run_id=training_run_id)
        await retrying(
            lambda timeout: self._tamiyo.SetConservativeMode(request, timeout=timeout),
            deadline_s=ACT_WITHIN_S,
            peer="tamiyo",
        )

    async def _raise(self, emergency: Emergency) -> list[str]:
        request = tolaria_pb2.RaiseEmergencyRequest(
            level=emergency.level,
            reason=emergency.reason,
            training_run_id=emergency.training_run_id,
            signal_id=emergency.signal_id,
            origin=emergency.origin,
        )
        answer = await retrying(
            lambda timeout: self._tolaria.RaiseEmergency(request, timeout=timeout),
            deadline_s=ACT_WITHIN_S,
            peer="tolaria",
        )
        return list(answer.training_run_ids)
