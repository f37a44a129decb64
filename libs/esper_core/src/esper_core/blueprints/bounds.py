"""Typed bounds of blueprint parameters, and the one place where values are checked against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from esper_core.errors import ValidationError

ParameterValue = int | float | str


class BlueprintParameterError(ValidationError):
    """A parameter is unknown to its blueprint, of the wrong type, or out of bounds."""


class ParameterBound(Protocol):
    """What every kind of bound can do."""

    @property
    def name(self) -> str:
        """Name of the parameter."""

    @property
    def description(self) -> str:
        """Meaning and unit."""

    @property
    def default(self) -> ParameterValue:
        """Value that stands where none is given."""

    def check(self, value: object) -> ParameterValue:
        """Return the value in its declared type, or raise BlueprintParameterError."""


@dataclass(frozen=True, slots=True)
class IntegerBound:
    """A whole number in [minimum, maximum], on a grid of `step` from the minimum.

    Two bounds depend on what else is chosen: with `divides_channels` it must divide the channels of the site, and
    `at_most` names another parameter that it must not exceed.
    """

    name: str
    description: str
    minimum: int
    maximum: int
    default: int
    step: int = 1
    divides_channels: bool = False
    at_most: str = ""

    def check(self, value: object) -> int:
        """Return the value, or raise BlueprintParameterError."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not self._fits(int(value)):  # type: ignore[call-overload]
            grid = "" if self.step == 1 else f" in steps of {self.step}"
            raise _out_of_bounds(self.name, value, f"a whole number from {self.minimum} to {self.maximum}{grid}")
        return int(value)  # type: ignore[call-overload, no-any-return]

    def check_beside(self, values: Mapping[str, ParameterValue], channels: int) -> None:
        """Check the value beside the others and the channels of a site, or raise BlueprintParameterError."""
        value = int(values[self.name])
        if self.divides_channels and channels % value:
            raise _out_of_bounds(self.name, value, f"a divisor of the site's {channels} channels")
        if self.at_most and value > int(values[self.at_most]):
            raise _out_of_bounds(self.name, value, f"at most {self.at_most}, which is {values[self.at_most]}")

    def _fits(self, value: int) -> bool:
        return self.minimum <= value <= self.maximum and (value - self.minimum) % self.step == 0


@dataclass(frozen=True, slots=True)
class RealBound:
    """A finite number in [minimum, maximum]."""

    name: str
    description: str
    minimum: float
    maximum: float
    default: float

    def check(self, value: object) -> float:
        """Return the value as a float, or raise BlueprintParameterError."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not self.minimum <= value <= self.maximum:  # type: ignore[arg-type, operator]
            raise _out_of_bounds(self.name, value, f"a number from {self.minimum} to {self.maximum}")
        return float(value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ChoiceBound:
    """One of some words."""

    name: str
    description: str
    allowed: tuple[str, ...]
    default: str

    def check(self, value: object) -> str:
        """Return the word, or raise BlueprintParameterError."""
        if value not in self.allowed:
            raise _out_of_bounds(self.name, value, " or ".join(self.allowed))
        return str(value)


def _out_of_bounds(name: str, value: object, allowed: str) -> BlueprintParameterError:
    return BlueprintParameterError(
        f"Parameter {name} cannot be {value!r}; allowed is {allowed}.", field=f"parameters.{name}", allowed=allowed
    )


def bound_from_dict(data: Mapping[str, Any]) -> ParameterBound:
    """Read one bound of the catalogue file; `type` says which kind it is."""
    fields = {key: value for key, value in data.items() if key != "type"}
    kind = data["type"]
    if kind == "integer":
        return IntegerBound(**fields)
    if kind == "real":
        return RealBound(**fields)
    if kind == "choice":
        return ChoiceBound(**{**fields, "allowed": tuple(fields["allowed"])})
    raise BlueprintParameterError(
        f"Bound type {kind!r} does not exist.", field="type", allowed=("integer", "real", "choice")
    )


def complete(bounds: tuple[ParameterBound, ...], given: Mapping[str, object]) -> dict[str, ParameterValue]:
    """Check given values and fill the rest with the declared defaults; the result is sorted by name.

    Raises
    ------
    BlueprintParameterError
        Naming the parameter and what is allowed.
    """
    known = {bound.name: bound for bound in bounds}
    for name in given:
        if name not in known:
            allowed = sorted(known) or "no parameters"
            raise BlueprintParameterError(
                f"The blueprint has no parameter {name!r}.", field=f"parameters.{name}", allowed=allowed
            )
    return {name: known[name].check(given.get(name, known[name].default)) for name in sorted(known)}
