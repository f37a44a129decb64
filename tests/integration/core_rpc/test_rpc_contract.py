"""Generated services behind the host: the contract is checked at the entrance, unwritten methods say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from esper_core import leyline
from esper_core.errors import ContractError, UnimplementedError
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from esper_core.rpc import mapped_errors
from support.rpc_server import Running, build_server


class Link(tolaria_pb2_grpc.WorkerLinkServicer):
    """Reads reports and answers with one order each."""

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for _ in request_iterator:
            yield tolaria_pb2.WorkerOrder(order_id="1", kind=leyline.ORDER_KIND_PAUSE)


class Runs(tolaria_pb2_grpc.RunServiceServicer):
    """Has written one method."""

    async def SubmitRun(self, request: Any, context: Any) -> Any:
        return leyline.RunStatus()


@pytest.fixture
async def tolaria() -> AsyncIterator[Running]:
    running = build_server()
    runs: Any = Runs
    services: tuple[tuple[Any, Any, str], ...] = (
        (runs(), tolaria_pb2_grpc.add_RunServiceServicer_to_server, "esper.tolaria.v1.RunService"),
        (Link(), tolaria_pb2_grpc.add_WorkerLinkServicer_to_server, "esper.tolaria.v1.WorkerLink"),
    )
    for servicer, add_fn, name in services:
        running.host.add(servicer, add_fn, name, validate_requests=True)
    await running.host.start()
    yield running
    await running.close()


@pytest.mark.req("LEY-10")
async def test_a_wrong_version_is_refused_before_the_servicer(tolaria: Running) -> None:
    stub: Any = tolaria_pb2_grpc.RunServiceStub(tolaria.channel())
    with pytest.raises(ContractError, match="version") as caught, mapped_errors():
        await stub.SubmitRun(tolaria_pb2.SubmitRunRequest(spec=leyline.RunSpec(version=2)))
    assert caught.value.field == "spec.version"


@pytest.mark.req("LEY-10")
async def test_an_unspecified_enum_in_a_stream_is_refused(tolaria: Running) -> None:
    async def reports() -> AsyncIterator[Any]:
        yield tolaria_pb2.WorkerReport(events_through=3)
        yield tolaria_pb2.WorkerReport(status=leyline.RunStatus())

    stub: Any = tolaria_pb2_grpc.WorkerLinkStub(tolaria.channel())
    orders = []
    with pytest.raises(ContractError, match=r"status\.state"), mapped_errors():
        async for order in stub.Attach(reports()):
            orders.append(order.order_id)
    assert orders == ["1"]


async def test_an_unwritten_method_of_a_generated_service_says_so(tolaria: Running) -> None:
    stub: Any = tolaria_pb2_grpc.RunServiceStub(tolaria.channel())
    with pytest.raises(UnimplementedError, match="GetRun"), mapped_errors():
        await stub.GetRun(tolaria_pb2.GetRunRequest(training_run_id="x"))
    with pytest.raises(UnimplementedError, match="WatchRun"), mapped_errors():
        assert [event async for event in stub.WatchRun(tolaria_pb2.WatchRunRequest(training_run_id="x"))] == []
