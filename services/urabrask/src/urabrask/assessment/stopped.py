"""Hazards of a trial that had to be stopped, or that took its process with it."""

from __future__ import annotations

from typing import Final

from esper_core.errors import EsperError, ResourceExhaustedError, TimeoutExceededError, WorkerCrashedError
from urabrask.assessment.hazards import Hazard

STOPPED: Final = (TimeoutExceededError, ResourceExhaustedError, WorkerCrashedError)
"""Errors that say something about the kernel; any other says something about us."""


def hazard_of(error: EsperError) -> Hazard:
    """Return the hazard that an ended trial is."""
    if isinstance(error, TimeoutExceededError):
        return Hazard(
            "time_limit_exceeded", f"The trial was killed: {error.message}", 0.7, "Try a smaller shape or expansion."
        )
    if isinstance(error, ResourceExhaustedError):
        return Hazard(
            "memory_limit_exceeded", f"The trial was stopped: {error.message}", 0.7, "Try a smaller expansion or rank."
        )
    return Hazard("process_died", f"The trial took its process down: {error.message}", 0.9, "Never attach it.")
