"""What can go wrong next to the model; each class inherits its row of the catalogue from esper_core.errors."""

from __future__ import annotations

from esper_core.blending import BlendError
from esper_core.blueprints import BlueprintParameterError, SiteContractError, UnknownBlueprintError
from esper_core.errors import (
    DependencyViolationError,
    IntegrityError,
    NotFoundError,
    StateConflictError,
    ValidationError,
)

__all__ = [
    "BlendError",
    "BlueprintParameterError",
    "ExportError",
    "IsolationViolationError",
    "KernelFormatError",
    "MissingLogitsError",
    "NoTeacherError",
    "OptimizerRebuildError",
    "OwnershipConflictError",
    "SeedStateError",
    "SiteContractError",
    "SnapshotIntegrityError",
    "TeacherOutputError",
    "TeacherTooLargeError",
    "TopologyMismatchError",
    "UnknownBlueprintError",
    "UnknownSeedError",
    "UnknownSiteError",
    "UnreachedSeedError",
]


class MissingLogitsError(DependencyViolationError):
    """CONFIDENCE blending was asked for a gate without the policy's logits."""


class UnknownSiteError(NotFoundError):
    """The host declares no site of that name."""


class UnknownSeedError(NotFoundError):
    """No seed of that id is attached."""


class SeedStateError(StateConflictError):
    """The seed is in a stage in which this cannot be done."""


class OwnershipConflictError(StateConflictError):
    """A parameter already has another owner."""


class IsolationViolationError(StateConflictError):
    """A seed gave its host a gradient although it was to learn apart."""


class TopologyMismatchError(StateConflictError):
    """A snapshot or export belongs to a host of another shape."""


class UnreachedSeedError(StateConflictError):
    """A loss depends on nothing that learns: it does not see the seed."""


class OptimizerRebuildError(StateConflictError):
    """An optimizer would not take a seed's parameters as a group of its own."""


class KernelFormatError(IntegrityError):
    """The bytes of a kernel are damaged, or hold other tensors than its spec says."""


class SnapshotIntegrityError(IntegrityError):
    """A checkpoint is truncated, torn, or its bytes do not match their digest."""


class ExportError(StateConflictError):
    """The grown model cannot be exported as it stands, or an export cannot be loaded."""


class NoTeacherError(StateConflictError):
    """A loss was asked of a teacher that is not there."""


class TeacherTooLargeError(ValidationError):
    """A teacher takes more memory than its budget."""


class TeacherOutputError(ValidationError):
    """A teacher's answer does not have the shape of its student's."""
