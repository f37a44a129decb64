"""Sessions inside other trainers; each module here needs the extra of its name."""

from esper_core.errors import DependencyViolationError

__all__ = ["missing_extra"]


def missing_extra(extra: str, error: ImportError) -> DependencyViolationError:
    """Return the error that says which extra to install."""
    return DependencyViolationError(
        f"esper_runtime.integrations.{extra} cannot be used: {error}. "
        f"Install it with: pip install 'esper-runtime[{extra}]'",
        dependency=extra,
        details={"extra": extra},
    )
