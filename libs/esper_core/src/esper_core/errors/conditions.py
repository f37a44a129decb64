"""Errors of the moment: what is asked is right, but something is busy, full, away, late, broken or at its end."""

from __future__ import annotations

import errno

from esper_core.errors.base import EsperError


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


class IntegrityError(EsperError):
    """Bytes do not match their digest, checksum or framing."""

    code = "ESP-1009"


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
