"""Typed, bounded parameters of a task's model.

A task says which parameters its model takes; whatever a user hands in is checked against that before a model is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from esper_core.errors import ValidationError

ParameterValue: TypeAlias = int | float | str | bool


@dataclass(frozen=True, slots=True)
class IntParameter:
    """A whole number from `low` to `high`, both allowed; a default of None leaves the choice to the task."""

    name: str
    low: int
    high: int
    default: int | None
    doc: str

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        return f"an integer from {self.low} to {self.high}"

    def accepts(self, value: object) -> bool:
        """Say whether a value has the type and lies in the bounds."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class FloatParameter:
    """A real number from `low` to `high`, both allowed."""

    name: str
    low: float
    high: float
    default: float | None
    doc: str

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        return f"a number from {self.low} to {self.high}"

    def accepts(self, value: object) -> bool:
        """Say whether a value has the type and lies in the bounds; NaN never does."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class ChoiceParameter:
    """One of a few words."""

    name: str
    choices: tuple[str, ...]
    default: str | None
    doc: str

    @property
    def allowed(self) -> str:
        """The choices in words."""
        return "one of " + ", ".join(self.choices)

    def accepts(self, value: object) -> bool:
        """Say whether a value is among the choices."""
        return isinstance(value, str) and value in self.choices


Parameter: TypeAlias = IntParameter | FloatParameter | ChoiceParameter


def resolve_parameters(
    task_name: str, declared: Iterable[Parameter], given: Mapping[str, ParameterValue]
) -> dict[str, ParameterValue]:
    """Check what a user gave and fill in the defaults.

    Parameters
    ----------
    task_name : str
        Named in the error sentences.
    declared : Iterable[Parameter]
        What the task takes.
    given : Mapping[str, ParameterValue]
        What the user asked for.

    Returns
    -------
    dict[str, ParameterValue]
        Given values and defaults; parameters whose default is None are left out.

    Raises
    ------
    ValidationError
        If a name is unknown, or a value has the wrong type or is out of bounds.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    for name, value in given.items():
        _check(task_name, by_name, name, value)
    defaults = {name: parameter.default for name, parameter in by_name.items() if parameter.default is not None}
    return {**defaults, **given}


def _check(task_name: str, by_name: Mapping[str, Parameter], name: str, value: object) -> None:
    parameter = by_name.get(name)
    if parameter is None:
        known = ", ".join(by_name) or "none"
        raise ValidationError(
            f"Task {task_name!r} has no parameter {name!r}; it takes: {known}.",
            field=f"parameters.{name}",
            allowed=tuple(by_name),
        )
    if not parameter.accepts(value):
        raise ValidationError(
            f"Parameter {name!r} of task {task_name!r} cannot be {value!r}; give {parameter.allowed}.",
            field=f"parameters.{name}",
            allowed=parameter.allowed,
        )
