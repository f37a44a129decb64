"""Esper's exceptions.

EsperError
├── InternalError                     a defect of ours
├── ConfigurationError
│   └── SettingsError                 names the environment variable
├── ValidationError                   names the field and what is allowed
│   └── ContractError                 Leyline version or an UNSPECIFIED enum
├── DependencyViolationError          a missing id, kernel, input; never defaulted
├── NotFoundError
├── AlreadyExistsError
├── QuarantinedError
├── IntegrityError                    digest or checksum does not match
├── UnauthenticatedError
├── PermissionDeniedError
├── CommandRejectedError              carries the leyline RejectReason
├── StateConflictError
│   ├── PortInUseError
│   ├── StateFolderInUseError
│   └── StaleGenerationError
├── ResourceExhaustedError            carries retry_after_s
├── UnavailableError
│   └── CircuitOpenError
├── TimeoutExceededError
├── OperationCancelledError
├── StorageError
│   └── DiskFullError
├── UnimplementedError
├── WorkerCrashedError
├── RunFailedError
└── RunHaltedError

A subclass elsewhere inherits its parent's row of the catalogue unless it names a `code` of its own, which must then
have a row. All state of an error lives in its message and its string details, so that it survives the wire unchanged.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from esper_core.errors.catalogue import CATALOGUE, CatalogueEntry


class EsperError(Exception):
    """Base of all errors that Esper raises on purpose.

    Parameters
    ----------
    message : str
        A public sentence that says what is wrong and what to do.
    details : Mapping[str, str], optional
        Facts for programs; they travel over gRPC as ErrorInfo metadata.
    retryable : bool, optional
        Whether a retry can help; the catalogue's word when absent.
    retry_after_s : float, optional
        Seconds to wait before a retry, where that is known.
    """

    code: ClassVar[str] = "ESP-1000"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.code not in CATALOGUE:
            raise TypeError(f"{cls.__name__}.code is {cls.code!r}, which has no row in the error catalogue")

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = dict(details or {})
        self.retryable = self.entry.retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s

    @property
    def entry(self) -> CatalogueEntry:
        """The catalogue's row of this error."""
        return CATALOGUE[self.code]

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.message, self.details, self.retryable, self.retry_after_s)

    @classmethod
    def from_wire(
        cls,
        message: str,
        details: Mapping[str, str],
        *,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> Self:
        """Rebuild an error of this class from what travelled, without its constructor's conveniences."""
        error = cls.__new__(cls)
        EsperError.__init__(error, message, details=details, retryable=retryable, retry_after_s=retry_after_s)
        return error


class InternalError(EsperError):
    """An invariant of ours does not hold."""


class ConfigurationError(EsperError):
    """A file, option or combination of settings cannot work."""

    code = "ESP-1001"


class SettingsError(ConfigurationError):
    """An environment variable is missing or malformed; `variable` names it."""

    code = "ESP-1002"

    def __init__(self, message: str, *, variable: str) -> None:
        super().__init__(message, details={"variable": variable})

    @property
    def variable(self) -> str:
        """Name of the environment variable to set."""
        return self.details.get("variable", "")


class ValidationError(EsperError):
    """A caller's value is not allowed.

    Parameters
    ----------
    message : str
        The sentence for the caller.
    field : str
        Path of the field, for example `spec.budgets.max_seeds`.
    allowed : str or Sequence[str], optional
        What would have been accepted: a range in words, or the list of choices.
    """

    code = "ESP-1003"

    def __init__(self, message: str, *, field: str, allowed: str | Sequence[str] = "") -> None:
        text = allowed if isinstance(allowed, str) else ", ".join(allowed)
        super().__init__(message, details={"field": field, "allowed": text})

    @property
    def field(self) -> str:
        """Path of the field that is wrong."""
        return self.details.get("field", "")

    @property
    def allowed(self) -> str:
        """What the field accepts, in words; empty where no list exists."""
        return self.details.get("allowed", "")


class ContractError(ValidationError):
    """A message does not fit the Leyline contract: wrong version or an UNSPECIFIED enum."""

    code = "ESP-1004"


class DependencyViolationError(EsperError):
    """Something that must be supplied is missing; Esper never makes one up.

    Parameters
    ----------
    message : str
        The sentence for the caller.
    dependency : str
        What is missing, for example `training_run_id`.
    """

    code = "ESP-1005"

    def __init__(self, message: str, *, dependency: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message, details={**(details or {}), "dependency": dependency})

    @property
    def dependency(self) -> str:
        """Name of what is missing."""
        return self.details.get("dependency", "")


class NotFoundError(EsperError):
    """No such run, task, site, blueprint, kernel, seed or policy."""

    code = "ESP-1006"


class AlreadyExistsError(EsperError):
    """A thing with that id exists and differs."""

    code = "ESP-1007"


class QuarantinedError(EsperError):
    """The artefact is quarantined."""

    code = "ESP-1008"


class IntegrityError(EsperError):
    """Bytes do not match their digest, checksum or framing."""

    code = "ESP-1009"


class UnauthenticatedError(EsperError):
    """The token is missing, malformed, expired or signed with an unknown key."""

    code = "ESP-1010"


class PermissionDeniedError(EsperError):
    """The caller's role may not do this."""

    code = "ESP-1011"


class CommandRejectedError(EsperError):
    """A signed message failed verification.

    Parameters
    ----------
    message : str
        The sentence for the sender.
    reason : int
        A value of `leyline.RejectReason`.
    reason_name : str
        Its name, for people and labels.
    """

    code = "ESP-1012"

    def __init__(self, message: str, *, reason: int, reason_name: str) -> None:
        super().__init__(message, details={"reject_reason": str(int(reason)), "reject_reason_name": reason_name})

    @property
    def reason(self) -> int:
        """The value of `leyline.RejectReason`."""
        return int(self.details.get("reject_reason", "0"))

    @property
    def reason_name(self) -> str:
        """The name of the reason."""
        return self.details.get("reject_reason_name", "")


class StateConflictError(EsperError):
    """The request does not fit the state that something is in."""

    code = "ESP-1013"


class PortInUseError(StateConflictError):
    """Another process listens on the port."""

    code = "ESP-1014"


class StateFolderInUseError(StateConflictError):
    """Another process holds the lock of the state folder."""

    code = "ESP-1015"


class StaleGenerationError(StateConflictError):
    """The topology's generation is another than the one the request was decided on."""

    code = "ESP-1016"


class ResourceExhaustedError(EsperError):
    """A queue, ledger, budget or rate limit is full; `retry_after_s` says when to come again."""

    code = "ESP-1017"


class UnavailableError(EsperError):
    """A peer cannot be reached or is not serving."""

    code = "ESP-1018"


class CircuitOpenError(UnavailableError):
    """The breaker in front of a peer is open."""

    code = "ESP-1019"


class TimeoutExceededError(EsperError):
    """The work did not finish by its deadline and was stopped."""

    code = "ESP-1020"


class OperationCancelledError(EsperError):
    """The work was cancelled by its caller or by a shutdown."""

    code = "ESP-1021"


class StorageError(EsperError):
    """Reading or writing a file failed."""

    code = "ESP-1022"

    @classmethod
    def from_os_error(cls, error: OSError, path: object, action: str) -> StorageError:
        """Name the action and the path; a full disk gets its own class."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"Cannot {action} {path}: the disk is full. Free space and try again.")
        return StorageError(f"Cannot {action} {path}: {error.strerror or error}.", details={"path": str(path)})


class DiskFullError(StorageError):
    """No space is left on the disk."""

    code = "ESP-1023"


class UnimplementedError(EsperError):
    """The method exists in the contract and comes later."""

    code = "ESP-1024"


class WorkerCrashedError(EsperError):
    """The child process that did the work died."""

    code = "ESP-1025"


class RunFailedError(EsperError):
    """A training run ended in FAILED."""

    code = "ESP-1030"


class RunHaltedError(EsperError):
    """A training run ended in HALTED."""

    code = "ESP-1031"


def error_classes() -> Iterator[type[EsperError]]:
    """Walk all known error classes, parents first."""
    pending: list[type[EsperError]] = [EsperError]
    while pending:
        cls = pending.pop(0)
        yield cls
        pending.extend(cls.__subclasses__())


def class_of(code: str) -> type[EsperError]:
    """Return the class that owns a code; EsperError for a code from a newer peer."""
    owners = (cls for cls in error_classes() if cls.__dict__.get("code") == code and cls is not EsperError)
    return next(owners, InternalError if code == EsperError.code else EsperError)


def from_code(code: str, message: str, details: Mapping[str, str], *, retry_after_s: float | None = None) -> EsperError:
    """Rebuild the error that a peer raised, for the client side of an RPC."""
    return class_of(code).from_wire(message, details, retry_after_s=retry_after_s)


def rebuild(
    cls: type[EsperError], message: str, details: Mapping[str, str], retryable: bool, retry_after_s: float | None
) -> EsperError:
    """Rebuild an error of a known class; used when one crosses a process boundary."""
    return cls.from_wire(message, details, retryable=retryable, retry_after_s=retry_after_s)


def to_exit_code(error: BaseException) -> int:
    """Return the exit status a process should end with because of `error`."""
    if isinstance(error, EsperError):
        return error.entry.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return CATALOGUE[EsperError.code].exit_code
