"""The parts of the RPC layer that need no socket."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from esper_core.clocks import ManualClock
from esper_core.errors import (
    CATALOGUE,
    EsperError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    StateConflictError,
    UnauthenticatedError,
    UnavailableError,
    ValidationError,
)
from esper_core.rpc import Backoff, background, caller, from_rpc_error, retrying
from esper_core.rpc.access import AccessRules
from esper_core.rpc.background import TaskGroupOwner
from esper_core.rpc.metrics import MethodName, go_code
from esper_core.rpc.network import is_loopback
from esper_core.rpc.options import channel_options, server_options
from esper_core.rpc.rpc_errors import DETAILS_KEY, to_status
from esper_core.security.tokens import Role, TokenClaims


def claims(role: Role) -> TokenClaims:
    return TokenClaims("someone", role, 0, 1, "k1")


def test_both_sides_agree_on_keepalive_and_sizes() -> None:
    server, client = dict(server_options()), dict(channel_options("esper-test"))
    for name in ("grpc.keepalive_time_ms", "grpc.max_receive_message_length", "grpc.max_metadata_size"):
        assert server[name] == client[name]
    assert int(server["grpc.http2.min_recv_ping_interval_without_data_ms"]) < int(client["grpc.keepalive_time_ms"])


def test_every_catalogue_row_names_a_grpc_status() -> None:
    assert {row.grpc_status for row in CATALOGUE.values()} <= {code.name for code in grpc.StatusCode}


def test_codes_are_spelled_as_in_go() -> None:
    assert [go_code(code) for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.NOT_FOUND)] == [
        "OK",
        "Canceled",
        "NotFound",
    ]


@pytest.mark.parametrize(
    ("many_in", "many_out", "kind"),
    [
        (False, False, "unary"),
        (True, False, "client_stream"),
        (False, True, "server_stream"),
        (True, True, "bidi_stream"),
    ],
)
def test_a_method_is_named_by_its_path(many_in: bool, many_out: bool, kind: str) -> None:
    name = MethodName.of("/esper.urza.v1.Library/GetKernel", request_streaming=many_in, response_streaming=many_out)
    assert (name.service, name.method, name.kind) == ("esper.urza.v1.Library", "GetKernel", kind)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.9.9.9:1", True),
     ("0.0.0.0:1", False), ("[::]:1", False), ("oona:1", False), ("10.0.0.1:1", False)],
)  # fmt: skip
def test_loopback_is_recognised(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_roles_are_checked_by_method() -> None:
    rules = AccessRules()
    rules.declare("s", read_only=["Get"], service_only=["Attach"])
    for role, path in (("viewer", "s/Get"), ("operator", "s/Set"), ("service", "s/Attach"), ("service", "other/X")):
        rules.require(claims(role), path)  # type: ignore[arg-type]
    for role, path in (("viewer", "s/Set"), ("operator", "s/Attach"), ("viewer", "other/X")):
        with pytest.raises(PermissionDeniedError, match=path):
            rules.require(claims(role), path)  # type: ignore[arg-type]


def test_there_is_no_caller_outside_of_a_call() -> None:
    with pytest.raises(UnauthenticatedError):
        caller()


def transport_error(code: grpc.StatusCode, trailing: tuple[tuple[str, bytes], ...] = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), "why")


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, ValidationError),
        (grpc.StatusCode.FAILED_PRECONDITION, StateConflictError),
        (grpc.StatusCode.UNKNOWN, InternalError),
    ],
)
def test_a_failure_of_grpc_itself_gets_the_class_of_its_status(code: grpc.StatusCode, cls: type[EsperError]) -> None:
    error = from_rpc_error(transport_error(code), "urza")
    assert type(error) is cls
    assert error.message == f"urza answered {code.name}: why."


def test_details_that_are_no_status_are_passed_over() -> None:
    error = from_rpc_error(transport_error(grpc.StatusCode.NOT_FOUND, ((DETAILS_KEY, b"\xff\xff"),)))
    assert type(error) is NotFoundError


def test_a_very_long_error_still_fits_into_the_metadata() -> None:
    status = to_status(NotFoundError("x" * 100_000, details={"name": "y" * 100_000}))
    assert len(status.details) + len(status.trailing_metadata[0][1]) < 16 * 1024


def test_back_off_grows_to_its_bound_with_jitter() -> None:
    backoff, source = Backoff(first_s=1.0, longest_s=4.0), random.Random(7)
    for failures, span in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 4.0)):
        waits = {backoff.wait_s(failures, source) for _ in range(50)}
        assert len(waits) > 1
        assert span / 2 <= min(waits) <= max(waits) <= span


class Retrier:
    """Drives `retrying` on a clock that only the waits move."""

    def __init__(self, *outcomes: EsperError | str) -> None:
        self.outcomes = list(outcomes)
        self.clock = ManualClock()
        self.waits: list[float] = []
        self.timeouts: list[float] = []

    async def attempt(self, timeout_s: float) -> str:
        self.timeouts.append(timeout_s)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, EsperError):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)

    async def run(self, deadline_s: float) -> str:
        return await retrying(
            self.attempt, deadline_s=deadline_s, random_source=random.Random(1), clock=self.clock, sleep=self.sleep
        )


async def test_a_retry_waits_at_least_as_long_as_the_peer_asks() -> None:
    retrier = Retrier(UnavailableError("no", retry_after_s=3.0), "yes")
    assert await retrier.run(10.0) == "yes"
    assert retrier.waits == [3.0]


async def test_no_attempt_is_made_that_the_deadline_would_cut_off() -> None:
    retrier = Retrier(*[UnavailableError("no", retry_after_s=4.0)] * 9)
    with pytest.raises(UnavailableError, match="no"):
        await retrier.run(10.0)
    assert retrier.waits == [4.0, 4.0]
    assert retrier.timeouts == [5.0, 5.0, 2.0]


async def test_a_task_that_lost_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_S", 0.01)
    owner = TaskGroupOwner(lambda name, error: pytest.fail(f"{name} crashed: {error}"))
    lost = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    owner.start("stubborn", stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await owner.cancel_and_join()
    assert lost.is_set()
