"""Health with its dependencies, drain, shutdown hooks, ports, metrics over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper_core.errors import (
    ConfigurationError,
    InternalError,
    NotFoundError,
    PortInUseError,
    StateConflictError,
    UnavailableError,
)
from esper_core.rpc import check_health, health_probe, mapped_errors
from support.ports import free_address
from support.rpc_echo import ECHO_SERVICE
from support.rpc_server import CONFIG, Running
from support.waiting import await_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HELLO = StringValue(value="hello")
Prepare = Callable[..., Running]


class Switch:
    """A dependency that a test turns on and off."""

    def __init__(self) -> None:
        self.on = False

    async def probe(self) -> None:
        if not self.on:
            raise UnavailableError("The switch is off.")


async def watch(running: Running, service: str, seen: list[Any]) -> None:
    stub: Any = health_pb2_grpc.HealthStub(running.channel(None))
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
        seen.append(answer.status)


@pytest.mark.req("PLA-3")
async def test_health_follows_its_dependency(prepare: Prepare) -> None:
    running, switch = prepare(), Switch()
    seen: list[Any] = []
    running.host.watch_dependency("switch", switch.probe, interval_s=0.01)
    await running.host.start()
    watching = asyncio.create_task(watch(running, ECHO_SERVICE, seen))
    await await_until(lambda: seen == [NOT_SERVING])
    await await_until(lambda: "off" in running.host.health.problems.get("switch", ""))
    with pytest.raises(UnavailableError, match="NOT_SERVING"):
        await check_health(running.channel(None))
    switch.on = True
    await await_until(lambda: seen == [NOT_SERVING, SERVING])
    await check_health(running.channel(None))
    switch.on = False
    await await_until(lambda: seen == [NOT_SERVING, SERVING, NOT_SERVING])
    await running.host.stop()
    async with asyncio.timeout(5):
        await watching


async def test_a_dependency_that_hangs_is_not_serving(prepare: Prepare) -> None:
    running = prepare()

    async def probe() -> None:
        await asyncio.Event().wait()

    running.host.watch_dependency("sleeper", probe, interval_s=0.01, timeout_s=0.02)
    await running.host.start()
    await await_until(lambda: "no answer" in running.host.health.problems["sleeper"])


async def test_a_peer_is_a_dependency(prepare: Prepare, running: Running) -> None:
    dependent = prepare()
    peer = running.channel()
    dependent.host.watch_dependency("echo", health_probe(peer, ECHO_SERVICE, peer="echo"), interval_s=0.01)
    await dependent.host.start()
    await await_until(lambda: dependent.host.health.serving)
    await running.host.stop()
    await await_until(lambda: not dependent.host.health.serving)


async def test_health_of_an_unknown_service(running: Running) -> None:
    with pytest.raises(NotFoundError, match=ECHO_SERVICE):
        await check_health(running.channel(None), "esper.nobody.v1.Nothing")


async def test_a_drain_finishes_the_call_in_flight(running: Running) -> None:
    stub = running.stub()
    call = stub.Held(HELLO)
    await asyncio.wait_for(running.servicer.entered.wait(), 5)
    stopping = asyncio.create_task(running.host.stop())
    await asyncio.wait_for(running.host.draining.wait(), 5)
    with pytest.raises(UnavailableError), mapped_errors():
        await running.stub().One(HELLO)
    assert not stopping.done()
    running.servicer.release.set()
    assert (await call).value == "hello"
    async with asyncio.timeout(5):
        await stopping


async def test_a_drain_ends_streams_that_would_never_end(running: Running) -> None:
    stub = running.stub()
    call = stub.Many(StringValue(value="forever"))
    await asyncio.wait_for(running.servicer.entered.wait(), 5)
    async with asyncio.timeout(5):
        await running.host.stop()
    assert running.servicer.closed.is_set()
    with pytest.raises(UnavailableError, match="shutting down") as caught, mapped_errors():
        assert [part.value async for part in call] == list("forever")
    assert caught.value.retryable


async def test_the_grace_ends_what_does_not_finish(prepare: Prepare) -> None:
    running = prepare(replace(CONFIG, shutdown_grace_s=0.1))
    await running.host.start()
    call = running.stub().Held(HELLO)
    await asyncio.wait_for(running.servicer.entered.wait(), 5)
    async with asyncio.timeout(5):
        await running.host.stop()
    with pytest.raises(UnavailableError), mapped_errors():
        await call


async def test_sigterm_drains_and_runs_the_hooks_in_reverse(prepare: Prepare) -> None:
    running, ran = prepare(), []

    async def second() -> None:
        ran.append("second")

    def broken() -> None:
        raise OSError("cannot")

    running.host.on_shutdown(lambda: ran.append("first"))
    running.host.on_shutdown(broken)
    running.host.on_shutdown(second)
    serving = asyncio.create_task(running.host.run_until_stopped())
    await await_until(lambda: running.host.port)
    await check_health(running.channel(None))
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        await serving
    assert ran == ["second", "first"]


async def test_a_second_signal_ends_the_drain_at_once(running: Running) -> None:
    serving = asyncio.create_task(running.host.run_until_stopped())
    call = running.stub().Held(HELLO)
    await asyncio.wait_for(running.servicer.entered.wait(), 5)
    running.host.request_stop()
    await asyncio.wait_for(running.host.draining.wait(), 5)
    running.host.request_stop()
    async with asyncio.timeout(5):
        await serving
    with pytest.raises(UnavailableError), mapped_errors():
        await call


async def test_a_crashed_background_task_stops_the_host(prepare: Prepare) -> None:
    running = prepare()

    async def work() -> None:
        raise OSError("the disk is gone")

    running.host.run_in_background("writer", work)
    with pytest.raises(InternalError, match="the disk is gone"):
        async with asyncio.timeout(5):
            await running.host.run_until_stopped()


async def test_background_work_ends_with_the_host(prepare: Prepare) -> None:
    running, events = prepare(), []

    async def work() -> None:
        events.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("ended")

    running.host.run_in_background("work", work)
    await running.host.start()
    await await_until(lambda: events == ["started"])
    await running.host.stop()
    assert events == ["started", "ended"]


async def test_a_taken_port_is_told_in_a_sentence(prepare: Prepare, running: Running) -> None:
    other = prepare(listen=running.host.address)
    with pytest.raises(PortInUseError, match="the port is taken") as caught:
        await other.host.start()
    assert caught.value.details["address"] == running.host.address


async def test_a_taken_metrics_port_is_told_as_well(prepare: Prepare, running: Running) -> None:
    other = prepare(replace(CONFIG, metrics_listen=running.host.address))
    with pytest.raises(PortInUseError, match="metrics"):
        await other.host.start()


async def test_an_address_of_another_machine_is_told_apart(prepare: Prepare) -> None:
    running = prepare(replace(CONFIG, insecure_network=True), listen="192.0.2.1:0")
    with pytest.raises(ConfigurationError, match="Cannot listen"):
        await running.host.start()


def test_beyond_loopback_needs_tls_or_a_word(prepare: Prepare) -> None:
    with pytest.raises(ConfigurationError, match="ESPER_INSECURE_NETWORK"):
        prepare(listen="0.0.0.0:0")
    prepare(replace(CONFIG, insecure_network=True), listen="0.0.0.0:0")


async def test_a_host_starts_once(running: Running) -> None:
    with pytest.raises(StateConflictError):
        await running.host.start()


async def test_metrics_have_the_names_of_go_grpc_prometheus(prepare: Prepare) -> None:
    running = prepare(replace(CONFIG, metrics_listen=free_address()))
    await running.host.start()
    stub = running.stub()
    await stub.One(HELLO)
    assert [part.value async for part in stub.Many(HELLO)] == list("hello")
    with pytest.raises(UnavailableError), mapped_errors():
        running.servicer.behaviour = unavailable
        await stub.One(HELLO)
    one = f'grpc_method="One",grpc_service="{ECHO_SERVICE}",grpc_type="unary"'
    labels = {"grpc_type": "unary", "grpc_service": ECHO_SERVICE, "grpc_method": "One"}
    # The server may count only after the caller has its answer.
    await await_until(
        lambda: running.registry.get_sample_value("grpc_server_handling_seconds_count", labels) == 2.0,
    )
    url = f"http://127.0.0.1:{running.host.metrics_port}/metrics"
    page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())).decode()
    many = f'grpc_method="Many",grpc_service="{ECHO_SERVICE}",grpc_type="server_stream"'
    assert f"grpc_server_started_total{{{one}}} 2.0" in page
    assert f'grpc_server_handled_total{{grpc_code="OK",{one}}} 1.0' in page
    assert f'grpc_server_handled_total{{grpc_code="Unavailable",{one}}} 1.0' in page
    assert f"grpc_server_handling_seconds_count{{{one}}} 2.0" in page
    assert f"grpc_server_msg_received_total{{{many}}} 1.0" in page
    assert f"grpc_server_msg_sent_total{{{many}}} 5.0" in page
    assert f"grpc_client_msg_received_total{{{many}}} 5.0" in page
    assert f'grpc_client_handled_total{{grpc_code="Unavailable",{one}}} 1.0' in page
    assert 'leyline_message_size_bytes_count{message_type="google.protobuf.StringValue"}' in page


async def test_refused_calls_are_counted_by_their_status(running: Running) -> None:
    with pytest.raises(Exception, match="token"), mapped_errors():
        await running.stub(None).One(HELLO)
    labels = {"grpc_type": "unary", "grpc_service": ECHO_SERVICE, "grpc_method": "One", "grpc_code": "Unauthenticated"}
    count = running.registry.get_sample_value
    # The server may count only after the caller has its answer.
    await await_until(lambda: count("grpc_server_handled_total", labels) == 1.0)


async def unavailable(value: str, context: Any) -> str:
    raise UnavailableError("Not now.")
