"""Calls of the four kinds, errors in all of them, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from esper_core.errors import (
    CATALOGUE,
    ContractError,
    EsperError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    TimeoutExceededError,
    UnavailableError,
    UnimplementedError,
    class_of,
)
from esper_core.rpc import FixedToken, blocking_channel, caller, mapped_errors, open_channel, retrying
from esper_core.security.tokens import mint_token
from support.ports import free_address
from support.rpc_echo import EchoStub
from support.rpc_server import CONFIG, Running


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def texts(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield text(value)


def raising(error: BaseException) -> Callable[[str, Any], Any]:
    async def behaviour(value: str, context: Any) -> str:
        raise error

    return behaviour


async def test_the_four_kinds_of_calls(running: Running) -> None:
    stub = running.stub()
    assert (await stub.One(text("hello"))).value == "hello"
    assert [part.value async for part in stub.Many(text("abc"))] == ["a", "b", "c"]
    assert (await stub.Joined(texts("a", "b"))).value == "ab"
    assert [part.value async for part in stub.Upper(texts("a", "b"))] == ["A", "B"]


async def test_the_caller_is_known_inside(running: Running) -> None:
    async def behaviour(value: str, context: Any) -> str:
        return f"{caller().subject}:{caller().role}"

    running.servicer.behaviour = behaviour
    assert (await running.stub("operator").One(text(""))).value == "tester:operator"


@pytest.mark.parametrize("code", sorted(CATALOGUE))
async def test_every_error_arrives_as_its_own_class(running: Running, code: str) -> None:
    cls = class_of(code)
    sent = cls.from_wire("It is wrong; change it.", {"field": "x", "reject_reason": "2"})
    running.servicer.behaviour = raising(sent)
    with pytest.raises(cls) as caught, mapped_errors():
        await running.stub().One(text("x"))
    assert type(caught.value) is cls
    assert caught.value.message == sent.message
    assert caught.value.details == sent.details
    assert caught.value.retryable == sent.retryable
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert caught.value.__cause__.code().name == CATALOGUE[code].grpc_status


async def test_a_retry_delay_survives_the_wire(running: Running) -> None:
    running.servicer.behaviour = raising(ResourceExhaustedError("Full; come again.", retry_after_s=1.5))
    with pytest.raises(ResourceExhaustedError) as caught, mapped_errors():
        await running.stub().One(text("x"))
    assert caught.value.retry_after_s == 1.5


async def test_errors_of_streams_arrive_too(running: Running) -> None:
    running.servicer.behaviour = raising(NotFoundError("No such run."))
    with pytest.raises(NotFoundError), mapped_errors():
        assert [part.value async for part in running.stub().Many(text("ab"))] == ["a", "b"]


async def test_an_unexpected_error_gives_an_incident_and_no_secrets(running: Running) -> None:
    running.servicer.behaviour = raising(KeyError("password=hunter2"))
    with pytest.raises(InternalError) as caught, mapped_errors():
        await running.stub().One(text("x"))
    assert len(caught.value.details["incident_id"]) == 12
    assert caught.value.details["incident_id"] in caught.value.message
    assert "hunter2" not in caught.value.message


async def test_a_method_nobody_has_written_says_so(running: Running) -> None:
    with pytest.raises(UnimplementedError), mapped_errors():
        await running.stub().Later(text("x"))


async def test_bytes_that_are_no_message_are_a_contract_error(running: Running) -> None:
    with pytest.raises(ContractError), mapped_errors():
        await running.stub().raw_one(b"\xff\xff\xff")


async def test_the_client_deadline_stops_the_handler(running: Running) -> None:
    cancelled = asyncio.Event()

    async def behaviour(value: str, context: Any) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    running.servicer.behaviour = behaviour
    with pytest.raises(TimeoutExceededError), mapped_errors():
        await running.stub().One(text("x"), timeout=0.1)
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_the_server_limits_a_call_without_deadline(prepare: Callable[..., Running]) -> None:
    running = prepare(replace(CONFIG, max_unary_s=0.1))
    await running.host.start()
    metadata = (("authorization", f"Bearer {mint_token(running.keyring, 'x', 'service')}"),)
    async with grpc.aio.insecure_channel(running.host.address) as plain:
        with pytest.raises(TimeoutExceededError, match=r"within 0\.1 s") as caught, mapped_errors():
            await EchoStub(plain).Held(text("x"), metadata=metadata)
    assert caught.value.details["limit_s"] == "0.100"


async def test_a_unary_call_has_a_default_deadline(running: Running) -> None:
    seen: list[float] = []

    async def behaviour(value: str, context: Any) -> str:
        seen.append(context.time_remaining())
        return ""

    running.servicer.behaviour = behaviour
    await running.stub().One(text("x"))
    # On the wire a deadline is rounded up, by a percent or so.
    assert 5 < seen[0] <= 10.2


async def test_a_peer_that_is_away_is_named(running: Running) -> None:
    async with open_channel(free_address(), None, "test", registry=running.registry) as channel:
        with pytest.raises(UnavailableError, match="urza") as caught, mapped_errors("urza"):
            await EchoStub(channel).One(text("x"), timeout=2)
    assert caught.value.retryable


async def test_retrying_repeats_what_can_help(running: Running) -> None:
    attempts: list[str] = []

    async def behaviour(value: str, context: Any) -> str:
        attempts.append(value)
        if len(attempts) < 3:
            raise UnavailableError("Not yet.", retry_after_s=0.01)
        return "done"

    running.servicer.behaviour = behaviour
    stub = running.stub()
    answer = await retrying(lambda timeout: stub.One(text("x"), timeout=timeout), deadline_s=10)
    assert answer.value == "done"
    assert len(attempts) == 3


async def test_retrying_gives_up_on_what_cannot_help(running: Running) -> None:
    running.servicer.behaviour = raising(NotFoundError("No such run."))
    stub = running.stub()
    with pytest.raises(NotFoundError):
        await retrying(lambda timeout: stub.One(text("x"), timeout=timeout), deadline_s=10)


async def test_the_blocking_channel_follows_the_same_rules(running: Running) -> None:
    token = FixedToken(mint_token(running.keyring, "person", "operator"))

    def call(value: str) -> tuple[str, list[str]]:
        with blocking_channel(running.host.address, token, "cli", registry=running.registry) as channel:
            stub = EchoStub(channel)
            with mapped_errors("echo"):
                one: str = stub.One(text(value)).value
                return one, [part.value for part in stub.Many(text(value))]

    assert await asyncio.to_thread(call, "ab") == ("ab", ["a", "b"])
    running.servicer.behaviour = raising(EsperError("Odd."))
    with pytest.raises(InternalError, match="Odd"):
        await asyncio.to_thread(call, "ab")
