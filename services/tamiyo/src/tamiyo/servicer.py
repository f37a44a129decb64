"""gRPC adapter of the controller: converts, calls, maps; decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc.aio

from esper_core import leyline
from esper_core.errors import UnimplementedError, ValidationError
from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2, tamiyo_pb2_grpc
from tamiyo.desk import Desk

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ControllerServicer(tamiyo_pb2_grpc.ControllerServicer):
    """Serves `esper.tamiyo.v1.Controller`.

    Parameters
    ----------
    desk : Desk
        Tamiyo itself.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def Advise(  # noqa: D102
        self, request_iterator: AsyncIterator[leyline.SystemStatePacket], context: Context
    ) -> AsyncIterator[leyline.Decision]:
        async with self._desk.stream() as stream:
            async for packet in request_iterator:
                yield await stream.answer(packet)

    async def EvaluateStep(  # noqa: D102
        self, request: leyline.SystemStatePacket, context: Context
    ) -> leyline.Decision:
        return await self._desk.answer(request)

    async def GetPolicy(  # noqa: D102
        self, request: tamiyo_pb2.GetPolicyRequest, context: Context
    ) -> tamiyo_pb2.GetPolicyResponse:
        return tamiyo_pb2.GetPolicyResponse(policies=self._desk.policies())

    async def ApplyPolicy(  # noqa: D102
        self, request: tamiyo_pb2.ApplyPolicyRequest, context: Context
    ) -> tamiyo_pb2.GetPolicyResponse:
        raise UnimplementedError("Tamiyo serves rule policies only in this release; there is nothing to apply.")

    async def RollbackPolicy(  # noqa: D102
        self, request: tamiyo_pb2.RollbackPolicyRequest, context: Context
    ) -> tamiyo_pb2.GetPolicyResponse:
        raise UnimplementedError("Tamiyo serves rule policies only in this release; there is nothing to go back to.")

    async def SetConservativeMode(  # noqa: D102
        self, request: tamiyo_pb2.SetConservativeModeRequest, context: Context
    ) -> tamiyo_pb2.SetConservativeModeResponse:
        enabled = self._desk.set_conservative(request.enabled, request.reason, request.training_run_id)
        return tamiyo_pb2.SetConservativeModeResponse(enabled=enabled)

    async def Explain(  # noqa: D102
        self, request: tamiyo_pb2.ExplainRequest, context: Context
    ) -> tamiyo_pb2.ExplainResponse:
        which = request.WhichOneof("by")
        if which is None:
            raise ValidationError("Nothing is named.", field="by", allowed="seed_id or command_id")
        explained = self._desk.explain(seed_id=request.seed_id, command_id=request.command_id)
        return tamiyo_pb2.ExplainResponse(decisions=explained)

    async def ListFieldReports(  # noqa: D102
        self, request: tamiyo_pb2.ListFieldReportsRequest, context: Context
    ) -> tamiyo_pb2.ListFieldReportsResponse:
        reports = self._desk.reports(request.training_run_id, request.limit)
        return tamiyo_pb2.ListFieldReportsResponse(reports=reports)
