"""Dependency guard: what must be supplied is supplied, or the work stops with a CRITICAL event.

There is no default anywhere here. A caller that lacks a run id, a kernel, logits or a process group hears it at once,
under the name it knows the thing by, and the subsystem's telemetry hears it too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from esper_core.errors import DependencyViolationError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DependencyViolation:
    """The event handed to a sink; telemetry publishes it as CRITICAL `dependency_violation`."""

    dependency: str
    description: str
    attributes: Mapping[str, str] = field(default_factory=dict)


ViolationSink = Callable[[DependencyViolation], None]


def require_id(name: str, value: str | None, *, sink: ViolationSink | None = None) -> str:
    """Return a non-blank id.

    Parameters
    ----------
    name : str
        Name of the id, as the caller knows it.
    value : str or None
        What the caller gave.
    sink : ViolationSink, optional
        Told about a violation before the error is raised.

    Raises
    ------
    DependencyViolationError
        If the id is absent, blank or padded with white space.
    """
    if value is None or not value.strip():
        raise _violated(name, f"{name} is missing. Supply it; Esper never makes one up.", sink, {})
    if value != value.strip():
        raise _violated(name, f"{name} is padded with white space. Supply the exact id.", sink, {"value": value[:160]})
    return value


def require(name: str, value: T | None, *, hint: str = "", sink: ViolationSink | None = None) -> T:
    """Return a value that must be there: a kernel, logits, a mesh.

    An empty collection counts as missing; zero and False do not.

    Raises
    ------
    DependencyViolationError
        If the value is None or an empty collection.
    """
    if value is None or (isinstance(value, Collection) and len(value) == 0):
        raise _violated(name, f"{name} is missing. {hint or 'Supply it before asking for this.'}", sink, {})
    return value


def _violated(
    name: str, sentence: str, sink: ViolationSink | None, attributes: Mapping[str, str]
) -> DependencyViolationError:
    if sink is not None:
        sink(DependencyViolation(name, sentence, {"dependency": name, **attributes}))
    return DependencyViolationError(sentence, dependency=name, details=attributes)
