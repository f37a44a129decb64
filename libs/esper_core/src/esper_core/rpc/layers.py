"""The layers of every served call, outermost first: metrics, errors, authentication, deadline, tracing.

Metrics stand outside the error layer, so that refused calls are counted by the status that their client saw; the
error layer stands outside the rest, so that whatever they raise reaches the client with its code and its sentence.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from opentelemetry import propagate, trace

from esper_core.errors import (
    EsperError,
    InternalError,
    TimeoutExceededError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from esper_core.logs import get_logger
from esper_core.rpc.access import AccessRules, remember_caller
from esper_core.rpc.rpc_errors import from_rpc_error, status_code_of, to_status
from esper_core.rpc.server_call import Layer, ServerCall
from esper_core.security.keyring import Keyring
from esper_core.security.tokens import verify_token

_log: Final = get_logger("rpc")
_SCHEME: Final = "bearer "
TRACER: Final = trace.get_tracer("esper.rpc")


@asynccontextmanager
async def metered(call: ServerCall) -> AsyncIterator[None]:
    """Count the call and time it."""
    call.metrics.started.inc()
    started = time.perf_counter()
    cancelled = False
    try:
        yield
    except asyncio.CancelledError:
        cancelled = True
        raise
    finally:
        call.metrics.ended(_outcome(call.context, cancelled=cancelled), time.perf_counter() - started)


def _outcome(context: Any, *, cancelled: bool) -> grpc.StatusCode:
    if cancelled:
        late = context.time_remaining() == 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
    code: grpc.StatusCode | None = context.code()
    return code or grpc.StatusCode.OK


@asynccontextmanager
async def mapped(call: ServerCall) -> AsyncIterator[None]:
    """Turn what a handler raises into a status with details."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except asyncio.CancelledError:
        if not call.cut:
            raise
        await _abort(call, _draining())
    except grpc.RpcError as error:
        await _abort(call, from_rpc_error(error))
    except NotImplementedError:
        await _abort(call, UnimplementedError(f"{call.name.path} is part of the contract and arrives later."))
    except EsperError as error:
        await _abort(call, error)
    except Exception as error:
        await _abort(call, _incident(call, error))


def _draining() -> UnavailableError:
    """Absorb the cancellation with which the drain interrupted this task."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return UnavailableError("The service is shutting down. Connect again in a moment.", retry_after_s=1.0)


async def _abort(call: ServerCall, error: EsperError) -> None:
    level = logging.ERROR if status_code_of(error) is grpc.StatusCode.INTERNAL else logging.INFO
    _log.log(level, "call refused", rpc=call.name.path, code=error.code, reason=error.message)
    await call.context.abort_with_status(to_status(error))


def _incident(call: ServerCall, error: Exception) -> InternalError:
    """Log a defect under an id that the client sees, and keep its text from the client."""
    incident = uuid.uuid4().hex[:12]
    _log.error("unexpected error in a call", incident=incident, rpc=call.name.path, exc_info=error)
    return InternalError(
        f"Unexpected error in {call.name.path}. Its cause is in the service's log under incident {incident}.",
        details={"incident_id": incident},
    )


def authenticated(keyring: Keyring, rules: AccessRules) -> Layer:
    """Return the layer that demands a valid token of a role that may call the method."""

    @asynccontextmanager
    async def layer(call: ServerCall) -> AsyncIterator[None]:
        if not rules.is_free(call.name.service):
            claims = verify_token(keyring, _bearer(call))
            rules.require(claims, call.name.path)
            remember_caller(claims)
        yield

    return layer


def _bearer(call: ServerCall) -> str:
    value = call.metadata("authorization")
    if not value.lower().startswith(_SCHEME):
        raise UnauthenticatedError(
            f"{call.name.path} needs a token. Send `authorization: Bearer <token>`; `esper token` prints one."
        )
    return value[len(_SCHEME) :].strip()


def limited(max_unary_s: float) -> Layer:
    """Return the layer that stops a unary call at its deadline, or at `max_unary_s` where the client set none."""

    @asynccontextmanager
    async def layer(call: ServerCall) -> AsyncIterator[None]:
        if not call.name.is_unary:
            yield
            return
        remaining = call.context.time_remaining()
        limit_s = max_unary_s if remaining is None else min(remaining, max_unary_s)
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise TimeoutExceededError(
                f"{call.name.path} did not finish within {limit_s:.3g} s and was stopped.",
                details={"limit_s": f"{limit_s:.3f}"},
            ) from error

    return layer


@asynccontextmanager
async def traced(call: ServerCall) -> AsyncIterator[None]:
    """Give a unary call a span below its caller's; streams live for a whole run and get none."""
    if not call.name.is_unary:
        yield
        return
    carrier = {key: value for key, value in call.context.invocation_metadata() or () if isinstance(value, str)}
    attributes = {"rpc.system": "grpc", "rpc.service": call.name.service, "rpc.method": call.name.method}
    with TRACER.start_as_current_span(
        call.name.path, propagate.extract(carrier), trace.SpanKind.SERVER, attributes=attributes
    ):
        yield
