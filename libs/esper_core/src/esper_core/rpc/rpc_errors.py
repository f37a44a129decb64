"""Errors across the wire: an EsperError becomes a google.rpc.Status, and at the other end the same class again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from esper_core.clocks import from_duration, to_duration
from esper_core.errors import (
    AlreadyExistsError,
    EsperError,
    IntegrityError,
    InternalError,
    NotFoundError,
    OperationCancelledError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StateConflictError,
    TimeoutExceededError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    ValidationError,
    class_of,
)

DOMAIN: Final = "esper.dev"
DETAILS_KEY: Final = "grpc-status-details-bin"
_MAX_TEXT: Final = 2000
_OWN_CANCEL: Final = "Locally cancelled"

_BY_STATUS: Final[Mapping[grpc.StatusCode, type[EsperError]]] = {
    grpc.StatusCode.CANCELLED: OperationCancelledError,
    grpc.StatusCode.INVALID_ARGUMENT: ValidationError,
    grpc.StatusCode.OUT_OF_RANGE: ValidationError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimeoutExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: StateConflictError,
    grpc.StatusCode.ABORTED: StateConflictError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: IntegrityError,
}

D = TypeVar("D", bound=Message)


def status_code_of(error: EsperError) -> grpc.StatusCode:
    """Return the gRPC status that the catalogue gives to an error."""
    return grpc.StatusCode[error.entry.grpc_status]


def to_status(error: EsperError) -> grpc.Status:
    """Return what a server aborts with: code, sentence, ErrorInfo, and RetryInfo where a retry can help."""
    status = Status(code=Code.Value(error.entry.grpc_status), message=error.message[:_MAX_TEXT])
    metadata = {name: value[:_MAX_TEXT] for name, value in error.details.items()}
    status.details.add().Pack(ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata))
    if error.retryable:
        status.details.add().Pack(RetryInfo(retry_delay=to_duration(error.retry_after_s or 0.0)))
    return rpc_status.to_status(status)


def from_rpc_error(error: grpc.RpcError, peer: str = "") -> EsperError:
    """Turn a failed call into the error that the peer raised.

    Parameters
    ----------
    error : grpc.RpcError
        What a grpc.aio or a blocking stub raised.
    peer : str, optional
        Name of the peer, for the sentence of a transport failure.

    Returns
    -------
    EsperError
        The class named by ErrorInfo; where the failure came from gRPC itself, the class that fits its status.
    """
    details = _status_details(error)
    info = _unpacked(details, ErrorInfo)
    if details is None or info is None or info.domain != DOMAIN:
        return _from_transport(error, peer)
    retry = _unpacked(details, RetryInfo)
    delay_s = from_duration(retry.retry_delay) if retry is not None else 0.0
    return class_of(info.reason).from_wire(
        details.message, dict(info.metadata), retryable=retry is not None, retry_after_s=delay_s or None
    )


@contextmanager
def mapped_errors(peer: str = "") -> Iterator[None]:
    """Raise the peer's EsperError in place of the RpcError of any call made inside, awaited or blocking."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, peer) from error


def _status_details(error: grpc.RpcError) -> Status | None:
    trailing: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    packed = [value for key, value in trailing or () if key == DETAILS_KEY]
    if not packed:
        return None
    try:
        return Status.FromString(packed[0])
    except DecodeError:
        # A peer that is not ours may put anything here; the plain status below still tells what happened.
        return None


def _unpacked(status: Status | None, kind: type[D]) -> D | None:
    for packed in status.details if status is not None else ():
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def _from_transport(error: grpc.RpcError, peer: str) -> EsperError:
    code = error.code()
    cls = _BY_STATUS.get(code, InternalError)
    if code is grpc.StatusCode.CANCELLED and not (error.details() or "").startswith(_OWN_CANCEL):
        # A server that shuts down cancels what it has not begun; nobody here asked for that.
        cls = UnavailableError
    who = peer or "The peer"
    return cls.from_wire(
        f"{who} answered {code.name}: {error.details() or 'no reason given'}.", {"grpc_status": code.name}
    )
