"""The line between Tolaria and its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc.aio

from esper_core.errors import PermissionDeniedError, ValidationError
from esper_core.logs import get_logger
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from esper_core.rpc import caller
from tolaria.service.bells import Bells
from tolaria.service.orders import Line, OrderDesk
from tolaria.service.roster import Roster

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Reports: TypeAlias = AsyncIterator[tolaria_pb2.WorkerReport]
WORKER: Final = "tolaria-worker"
_log = get_logger("link")


class WorkerLinkServicer(tolaria_pb2_grpc.WorkerLinkServicer):
    """Serves `esper.tolaria.v1.WorkerLink`.

    Parameters
    ----------
    roster : Roster
        Told which process works on which run.
    desk : OrderDesk
        Orders to send, answers to take.
    bells : Bells
        Rung at every report, because events may have been written before it.
    """

    def __init__(self, roster: Roster, desk: OrderDesk, bells: Bells) -> None:
        self._roster = roster
        self._desk = desk
        self._bells = bells

    async def Attach(  # noqa: D102
        self, request_iterator: Reports, context: Context
    ) -> AsyncIterator[tolaria_pb2.WorkerOrder]:
        _require_worker()
        hello = await _hello(request_iterator)
        run_id = hello.training_run_id
        self._roster.adopt(run_id, hello.pid)
        _log.info("a worker is connected", run_id=run_id, pid=hello.pid, attempt=hello.attempt)
        line = self._desk.attach(run_id)
        listening = asyncio.create_task(self._listen(request_iterator, line), name=f"listen to {run_id}")
        try:
            async for order in line.orders():
                yield order
            if listening.done():
                listening.result()
        finally:
            self._desk.detach(line)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, reports: Reports, line: Line) -> None:
        """Take reports until the worker ends the conversation."""
        try:
            async for report in reports:
                if report.WhichOneof("report") == "result":
                    self._desk.answered(line.run_id, report.result)
                self._bells.ring(line.run_id)
        finally:
            line.close()


def _require_worker() -> None:
    subject = caller().subject
    if subject != WORKER:
        raise PermissionDeniedError(
            f"Only Tolaria's own workers attach here, and {subject} is none. Use RunService instead.",
            details={"subject": subject, "allowed": WORKER},
        )


async def _hello(reports: Reports) -> tolaria_pb2.WorkerHello:
    async for report in reports:
        if report.WhichOneof("report") == "hello":
            return report.hello
        break
    raise ValidationError("A worker has to begin with hello.", field="report", allowed="hello")
