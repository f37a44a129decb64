"""A small service without generated stubs, for tests of the RPC layer: text in, text out, in the four kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

ECHO_SERVICE = "esper.test.v1.Echo"


@dataclass
class EchoServicer:
    """Answers with what `behaviour` makes of the text; tests set it to raise, wait or speak."""

    behaviour: Callable[[str, Any], Awaitable[str]] | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def one(self, request: StringValue, context: Any) -> StringValue:
        """One in, one out."""
        self.entered.set()
        text = await self.behaviour(request.value, context) if self.behaviour else request.value
        return StringValue(value=text)

    async def held(self, request: StringValue, context: Any) -> StringValue:
        """One in, one out when the test says so."""
        self.entered.set()
        await self.release.wait()
        return request

    async def many(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        """One in, its letters out; "forever" never ends."""
        try:
            for letter in request.value:
                yield StringValue(value=letter)
            self.entered.set()
            if request.value == "forever":
                await self.release.wait()
            if self.behaviour:
                await self.behaviour(request.value, context)
        finally:
            self.closed.set()

    async def joined(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        """Many in, one out."""
        return StringValue(value="".join([request.value async for request in requests]))

    async def upper(self, requests: AsyncIterator[StringValue], context: Any) -> None:
        """Many in, many out, written by hand."""
        async for request in requests:
            await context.write(StringValue(value=request.value.upper()))


def later(request: StringValue, context: Any) -> StringValue:
    """Do what a generated base servicer does for a method nobody has written."""
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    raise NotImplementedError("Method not implemented!")


def add_echo(servicer: EchoServicer, server: grpc.aio.Server) -> None:
    """Register the service, as generated code would."""
    coding: dict[str, Any] = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "One": grpc.unary_unary_rpc_method_handler(servicer.one, **coding),
        "Held": grpc.unary_unary_rpc_method_handler(servicer.held, **coding),
        "Later": grpc.unary_unary_rpc_method_handler(later, **coding),
        "Many": grpc.unary_stream_rpc_method_handler(servicer.many, **coding),
        "Joined": grpc.stream_unary_rpc_method_handler(servicer.joined, **coding),
        "Upper": grpc.stream_stream_rpc_method_handler(servicer.upper, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO_SERVICE, handlers),))


class EchoStub:
    """Calls the service over any channel, as a generated stub would."""

    def __init__(self, channel: Any) -> None:
        coding: dict[str, Any] = {
            "request_serializer": StringValue.SerializeToString,
            "response_deserializer": StringValue.FromString,
        }
        base = f"/{ECHO_SERVICE}"
        self.One = channel.unary_unary(f"{base}/One", **coding)
        self.Held = channel.unary_unary(f"{base}/Held", **coding)
        self.Later = channel.unary_unary(f"{base}/Later", **coding)
        self.Many = channel.unary_stream(f"{base}/Many", **coding)
        self.Joined = channel.stream_unary(f"{base}/Joined", **coding)
        self.Upper = channel.stream_stream(f"{base}/Upper", **coding)
        self.raw_one = channel.unary_unary(f"{base}/One")
