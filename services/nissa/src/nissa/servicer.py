"""gRPC adapter of the observatory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias

import grpc.aio

from esper_core.clocks import from_timestamp, to_timestamp
from esper_core.errors import UnimplementedError
from esper_core.pb.esper.nissa.v1 import nissa_pb2, nissa_pb2_grpc
from nissa.entries import Entry
from nissa.history import HistoryQuery
from nissa.intake import Intake

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ObservatoryServicer(nissa_pb2_grpc.ObservatoryServicer):
    """Serves `esper.nissa.v1.Observatory`; alerts and objectives come later.

    Parameters
    ----------
    intake : Intake
        Knows the history, the board and when something new comes.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def QueryMetrics(  # noqa: D102
        self, request: nissa_pb2.QueryMetricsRequest, context: Context
    ) -> nissa_pb2.QueryMetricsResponse:
        response = nissa_pb2.QueryMetricsResponse()
        for sample in self._intake.board.samples(request.prefix, request.source):
            response.samples.add(
                name=sample.definition.name,
                prometheus_name=sample.definition.prometheus_name,
                value=sample.value,
                unit=sample.definition.unit,
                source=sample.source,
                updated_at=to_timestamp(sample.updated_at),
            )
        return response

    async def QueryEvents(  # noqa: D102
        self, request: nissa_pb2.QueryEventsRequest, context: Context
    ) -> nissa_pb2.QueryEventsResponse:
        query = HistoryQuery(
            training_run_id=request.training_run_id,
            seed_id=request.seed_id,
            name=request.name,
            source=request.source,
            since=from_timestamp(request.since) if request.HasField("since") else None,
            after=request.after,
            limit=request.limit,
            newest_first=request.newest_first,
        )
        found = await asyncio.to_thread(self._intake.history.find, query)
        return nissa_pb2.QueryEventsResponse(events=[_event(number, entry) for number, entry in found])

    async def WatchEvents(  # noqa: D102
        self, request: nissa_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[nissa_pb2.HistoryEvent]:
        after = request.after
        while True:
            news = self._intake.next_news()
            query = HistoryQuery(training_run_id=request.training_run_id, after=after, limit=1000)
            found = await asyncio.to_thread(self._intake.history.find, query)
            for number, entry in found:
                after = number
                yield _event(number, entry)
            if not found:
                await news.wait()

    async def ListAlerts(  # noqa: D102
        self, request: nissa_pb2.ListAlertsRequest, context: Context
    ) -> nissa_pb2.ListAlertsResponse:
        _later("Alerts")

    async def Acknowledge(  # noqa: D102
        self, request: nissa_pb2.AcknowledgeRequest, context: Context
    ) -> nissa_pb2.Alert:
        _later("Alerts")

    async def Silence(  # noqa: D102
        self, request: nissa_pb2.SilenceRequest, context: Context
    ) -> nissa_pb2.SilenceResponse:
        _later("Silences")

    async def GetSlos(  # noqa: D102
        self, request: nissa_pb2.GetSlosRequest, context: Context
    ) -> nissa_pb2.GetSlosResponse:
        _later("Service level objectives")


def _event(number: int, entry: Entry) -> nissa_pb2.HistoryEvent:
    return nissa_pb2.HistoryEvent(
        number=number,
        event_id=entry.event_id,
        name=entry.name,
        source=entry.source,
        training_run_id=entry.training_run_id,
        seed_id=entry.seed_id,
        level=entry.level,
        description=entry.description,
        occurred_at=to_timestamp(entry.occurred_at),
        attributes=[nissa_pb2.HistoryAttribute(name=name, value=value) for name, value in entry.attributes],
    )


def _later(what: str) -> NoReturn:
    raise UnimplementedError(f"{what} come in a later release; metrics and history are here already.")
