"""What every error of Esper is, and how one is found by its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
