"""Packing and unpacking TrainingMetrics: an absent figure stays absent, and is never taken for zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from esper_core import leyline
from esper_core.errors import ValidationError

_INTEGRAL: Final = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_INT64)

METRIC_FIELDS: Final[Mapping[str, bool]] = MappingProxyType(
    {field.name: field.type in _INTEGRAL for field in leyline.TrainingMetrics.DESCRIPTOR.fields}
)
"""Name of every figure, in the order of the message, and whether it is a whole number."""


def pack(figures: Mapping[str, float | int | None]) -> leyline.TrainingMetrics:
    """Build the message from named figures; None and not-a-number mean unknown and are left absent.

    Infinite values are kept: an infinite loss is a fact.

    Raises
    ------
    ValidationError
        If a name is not a field of TrainingMetrics, or a whole number is negative or fractional.
    """
    message = leyline.TrainingMetrics()
    for name, value in figures.items():
        if name not in METRIC_FIELDS:
            raise ValidationError(
                f"{name!r} is not a training metric.", field=f"metrics_struct.{name}", allowed=tuple(METRIC_FIELDS)
            )
        if value is not None and not math.isnan(value):
            setattr(message, name, _whole(name, value) if METRIC_FIELDS[name] else float(value))
    return message


def unpack(message: leyline.TrainingMetrics) -> dict[str, float]:
    """Return only the figures that are present."""
    return {name: getattr(message, name) for name in METRIC_FIELDS if message.HasField(name)}  # type: ignore[arg-type]


def missing(message: leyline.TrainingMetrics, wanted: Mapping[str, object] | tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the wanted figures that are absent, in the wanted order."""
    present = unpack(message)
    return tuple(name for name in wanted if name not in present)


def _whole(name: str, value: float | int) -> int:
    if value < 0 or value != int(value):
        sentence = f"{name} is {value}; it must be a whole number from 0."
        raise ValidationError(sentence, field=f"metrics_struct.{name}", allowed="0, 1, 2, …")
    return int(value)
