"""How each kind of service is asked whether it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper_core.settings import split_host_port

Probe = Callable[[], Awaitable[bool]]


def grpc_probe(channel: grpc.aio.Channel) -> Probe:
    """Ask by the standard health service; False when it answers anything but SERVING."""
    stub: Any = health_pb2_grpc.HealthStub(channel)

    async def probe() -> bool:
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"{error.code().name}: {error.details()}") from error
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return probe


def store_probe(address: str) -> Probe:
    """Ask the Redis-compatible server for a pong; any answer but that means it is still loading."""
    host, port = split_host_port(address)

    async def probe() -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"PING\r\n")
            await writer.drain()
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()

    return probe
