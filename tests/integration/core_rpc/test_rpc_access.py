"""Tokens, roles, and what is free of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from esper_core.clocks import ManualClock
from esper_core.errors import PermissionDeniedError, UnauthenticatedError
from esper_core.rpc import FixedToken, check_health, mapped_errors, open_channel
from esper_core.security.keyring import Keyring
from esper_core.security.tokens import Role, mint_token
from support.rpc_echo import ECHO_SERVICE, EchoStub
from support.rpc_server import CONFIG, Running

HELLO = StringValue(value="hello")


async def texts(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


async def listed_services(channel: Any) -> list[str]:
    async def asked() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    with mapped_errors():
        async for answer in stub.ServerReflectionInfo(asked(), timeout=5):
            return [service.name for service in answer.list_services_response.service]
    return []


def untyped(running: Running, role: Role) -> Any:
    """Return a channel for stubs whose types know blocking channels only."""
    return running.channel(role)


async def call_with(running: Running, authorization: str) -> None:
    async with grpc.aio.insecure_channel(running.host.address) as plain:
        with mapped_errors():
            await EchoStub(plain).One(HELLO, metadata=(("authorization", authorization),), timeout=5)


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "needs a token"),
        ("Basic abc", "needs a token"),
        ("Bearer ", "malformed"),
        ("Bearer nonsense", "malformed"),
        ("Bearer esper1.!!!.???", "base64url"),
        ("Bearer esper1.e30.e30", "claims are malformed"),
    ],
)
async def test_a_bad_authorization_is_refused_with_its_reason(
    running: Running, authorization: str, reason: str
) -> None:
    with pytest.raises(UnauthenticatedError, match=reason):
        await call_with(running, authorization)


async def test_no_token_is_refused_in_every_kind_of_call(running: Running) -> None:
    stub = running.stub(None)
    with pytest.raises(UnauthenticatedError), mapped_errors():
        await stub.One(HELLO)
    with pytest.raises(UnauthenticatedError), mapped_errors():
        assert [part async for part in stub.Many(HELLO)] == []
    with pytest.raises(UnauthenticatedError), mapped_errors():
        await stub.Joined(texts("a"))
    with pytest.raises(UnauthenticatedError), mapped_errors():
        assert [part async for part in stub.Upper(texts("a"))] == []
    assert not running.servicer.entered.is_set()


async def test_a_token_of_another_keyring_is_refused(running: Running) -> None:
    stranger = mint_token(Keyring.generate(), "stranger", "service")
    with pytest.raises(UnauthenticatedError, match="unknown key"):
        await call_with(running, f"Bearer {stranger}")


async def test_an_expired_token_is_refused(running: Running) -> None:
    past = ManualClock(datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(UnauthenticatedError, match="expired"):
        await call_with(running, f"Bearer {mint_token(running.keyring, 'x', 'service', clock=past)}")


@pytest.mark.parametrize(("role", "method"), [("viewer", "One"), ("operator", "Joined"), ("viewer", "Joined")])
async def test_a_role_may_not_do_more_than_declared(running: Running, role: Role, method: str) -> None:
    stub = running.stub(role)
    with pytest.raises(PermissionDeniedError, match=role) as caught, mapped_errors():
        await (stub.One(HELLO) if method == "One" else stub.Joined(texts("a")))
    assert caught.value.details["method"] == f"{ECHO_SERVICE}/{method}"


async def test_a_viewer_may_read(running: Running) -> None:
    assert [part.value async for part in running.stub("viewer").Many(HELLO)] == list("hello")


async def test_health_is_free(running: Running) -> None:
    await check_health(running.channel(None))
    await check_health(running.channel(None), ECHO_SERVICE)


@pytest.mark.req("PLA-3")
@pytest.mark.parametrize("role", ["service", "operator"])
async def test_reflection_lists_the_services_to_operators_and_services(running: Running, role: Role) -> None:
    names = await listed_services(running.channel(role))
    assert {ECHO_SERVICE, "grpc.health.v1.Health"} <= set(names)


async def test_reflection_is_closed_to_others(running: Running) -> None:
    with pytest.raises(PermissionDeniedError):
        await listed_services(running.channel("viewer"))
    with pytest.raises(UnauthenticatedError):
        await listed_services(running.channel(None))


async def test_channelz_comes_on_request_and_for_roles_only(prepare: Callable[..., Running]) -> None:
    running = prepare(replace(CONFIG, channelz=True))
    await running.host.start()
    stub: Any = channelz_pb2_grpc.ChannelzStub(untyped(running, "operator"))
    servers = await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))
    assert len(servers.server) >= 1
    closed: Any = channelz_pb2_grpc.ChannelzStub(untyped(running, "viewer"))
    with pytest.raises(PermissionDeniedError), mapped_errors():
        await closed.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))


async def test_a_rotated_keyring_still_verifies_old_tokens(prepare: Callable[..., Running]) -> None:
    running = prepare()
    old = FixedToken(mint_token(running.keyring, "x", "service"))
    from support.rpc_server import build_server

    rotated = build_server(keyring=running.keyring.rotated("k2"))
    try:
        await rotated.host.start()
        async with open_channel(rotated.host.address, old, "test", registry=running.registry) as channel:
            assert (await EchoStub(channel).One(HELLO)).value == "hello"
    finally:
        await rotated.close()
