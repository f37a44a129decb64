"""What the runtime is told to do, and what it answers, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from esper_core import leyline
from esper_core.errors import CATALOGUE, NotFoundError, StaleGenerationError, StateConflictError
from kasmina.blend import Blend
from kasmina.kernels import Kernel


@dataclass(frozen=True, slots=True)
class Details:
    """What a kind needs: `stage`, `isolation` for SET_STAGE, `blend` for ATTACH and SET_BLEND, `kernel` for PREPARE."""

    stage: int = 0
    isolation: int = 0
    blend: Blend | None = None
    kernel: Kernel | None = None


NO_DETAILS = Details()


@dataclass(frozen=True, slots=True)
class Directive:
    """One order for the next fence; `kind` is a value of `leyline.DirectiveKind`."""

    directive_id: str
    run_id: str
    seed_id: str
    site: str
    kind: int
    generation: int
    deadline: datetime
    command_id: str
    reason: str
    details: Details = NO_DETAILS


@dataclass(frozen=True, slots=True)
class DirectiveResult:
    """What became of a directive; `error_code` is of the error catalogue and empty when it was applied."""

    directive_id: str
    run_id: str
    seed_id: str
    kind: int
    applied: bool
    error_code: str
    message: str
    generation: int
    step: int
    apply_ms: float
    parameter_count: int
    removed_cleanly: bool
    left_behind: tuple[str, ...] = ()


def leaves_nothing(result: DirectiveResult) -> bool | None:
    """Tell whether a removal left nothing behind; None for a directive that removes nothing.

    A runtime that does not know the seed has nothing of it.
    """
    if result.kind not in (leyline.DIRECTIVE_KIND_DETACH, leyline.DIRECTIVE_KIND_RESET):
        return None
    clean = result.removed_cleanly and not result.left_behind
    return (result.applied and clean) or result.error_code == NotFoundError.code


def worth_repeating(result: DirectiveResult) -> bool:
    """Tell whether the same order, decided anew on the present generation, can succeed."""
    entry = CATALOGUE.get(result.error_code)
    return result.error_code == StaleGenerationError.code or (entry is not None and entry.retryable)


def kernel_at_fault(result: DirectiveResult) -> bool:
    """Tell whether a failed preparation or attachment speaks against the kernel, and not only against the moment."""
    return not worth_repeating(result) and result.error_code != StateConflictError.code
