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

from esper_core.errors.asking import (
    AlreadyExistsError,
    CommandRejectedError,
    ConfigurationError,
    ContractError,
    DependencyViolationError,
    NotFoundError,
    PermissionDeniedError,
    QuarantinedError,
    SettingsError,
    UnauthenticatedError,
    ValidationError,
)
from esper_core.errors.base import (
    EsperError,
    InternalError,
    class_of,
    error_classes,
    from_code,
    to_exit_code,
)
from esper_core.errors.catalogue import CATALOGUE, EXIT_OK, CatalogueEntry, entry_of
from esper_core.errors.conditions import (
    CircuitOpenError,
    DiskFullError,
    IntegrityError,
    OperationCancelledError,
    PortInUseError,
    ResourceExhaustedError,
    RunFailedError,
    RunHaltedError,
    StaleGenerationError,
    StateConflictError,
    StateFolderInUseError,
    StorageError,
    TimeoutExceededError,
    UnavailableError,
    UnimplementedError,
    WorkerCrashedError,
)

__all__ = [
    "CATALOGUE",
    "EXIT_OK",
    "AlreadyExistsError",
    "CatalogueEntry",
    "CircuitOpenError",
    "CommandRejectedError",
    "ConfigurationError",
    "ContractError",
    "DependencyViolationError",
    "DiskFullError",
    "EsperError",
    "IntegrityError",
    "InternalError",
    "NotFoundError",
    "OperationCancelledError",
    "PermissionDeniedError",
    "PortInUseError",
    "QuarantinedError",
    "ResourceExhaustedError",
    "RunFailedError",
    "RunHaltedError",
    "SettingsError",
    "StaleGenerationError",
    "StateConflictError",
    "StateFolderInUseError",
    "StorageError",
    "TimeoutExceededError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "ValidationError",
    "WorkerCrashedError",
    "class_of",
    "entry_of",
    "error_classes",
    "from_code",
    "to_exit_code",
]
