"""Spans of unary calls, one below the other across the wire; none for streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper_core.rpc import layers, outgoing
from support.rpc_server import Running, build_server
from support.waiting import await_until

HELLO = StringValue(value="hello")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (layers, outgoing):
        monkeypatch.setattr(module, "TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_the_server_span_is_the_child_of_the_client_span(spans: InMemorySpanExporter) -> None:
    running: Running = build_server()
    await running.host.start()
    try:
        stub = running.stub()
        await stub.One(HELLO)
        assert [part.value async for part in stub.Many(HELLO)] == list("hello")
        await await_until(lambda: len(spans.get_finished_spans()) == 2)
    finally:
        await running.close()
    server, client = sorted(spans.get_finished_spans(), key=lambda span: span.kind.value)
    assert server.parent is not None
    assert client.context is not None
    assert server.parent.span_id == client.context.span_id
    assert server.name == client.name == "esper.test.v1.Echo/One"
