"""What every entrance checks of a Leyline message: its version, and that no enum was left UNSPECIFIED.

The walk covers nested messages. An enum field that is `optional` is looked at only when it is present; the few fields
where UNSPECIFIED means something by their own comment are listed here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from esper_core.errors import ContractError

__all__ = ["LEYLINE_VERSION", "reject_unspecified", "require_version", "validate"]

LEYLINE_VERSION: Final = 1

MAY_BE_UNSPECIFIED: Final[frozenset[str]] = frozenset(
    {
        "esper.kasmina.v1.Hello.isolation",
        "esper.kasmina.v1.ReconcileNote.journal_stage",
        "esper.kasmina.v1.ReconcileNote.runtime_stage",
        "esper.leyline.v1.CommandOutcome.reject_reason",
        "esper.leyline.v1.CommandSeedOperation.isolation",
        "esper.leyline.v1.FieldReport.operation",
        "esper.leyline.v1.GrowthSpec.isolation",
        "esper.leyline.v1.RunStateChange.from_state",
        "esper.leyline.v1.SetStage.isolation",
        "esper.tolaria.v1.WorkerOrder.level",
    }
)
"""Full names of fields whose UNSPECIFIED means "not applicable here"."""


def require_version(message: Message, field: str = "version") -> None:
    """Check that a message that carries a version carries ours.

    Raises
    ------
    ContractError
        If the version is not 1. A message type without a version field passes.
    """
    descriptor = message.DESCRIPTOR.fields_by_name.get("version")
    if descriptor is None or descriptor.type != FieldDescriptor.TYPE_UINT32:
        return
    version = getattr(message, "version")  # noqa: B009 - the static type does not know the field
    if version != LEYLINE_VERSION:
        raise ContractError(
            f"{field} of {message.DESCRIPTOR.name} is {version}; this release speaks version {LEYLINE_VERSION}.",
            field=field,
            allowed=str(LEYLINE_VERSION),
        )


def reject_unspecified(message: Message, path: str = "") -> None:
    """Check that no enum in a message, however deep, is UNSPECIFIED or unknown.

    Raises
    ------
    ContractError
        Naming the path of the first such field and the values that are allowed.
    """
    for field, value, where in _walk(message, path):
        if field.enum_type is not None and field.full_name not in MAY_BE_UNSPECIFIED:
            _check_enum(field.enum_type, value, where)


def validate(message: Message) -> None:
    """Check version and enums of a message and of everything in it; the one call for a servicer's entrance.

    Raises
    ------
    ContractError
        If either is wrong.
    """
    require_version(message)
    for field, value, where in _walk(message, ""):
        if field.enum_type is not None and field.full_name not in MAY_BE_UNSPECIFIED:
            _check_enum(field.enum_type, value, where)
        elif isinstance(value, Message):
            require_version(value, f"{where}.version")


def _walk(message: Message, path: str) -> Iterator[tuple[FieldDescriptor, object, str]]:
    for field in _checked_fields(message.DESCRIPTOR):
        where = f"{path}.{field.name}" if path else field.name
        for value, place in _values(message, field, where):
            yield field, value, place
            if isinstance(value, Message):
                yield from _walk(value, place)


@cache
def _checked_fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the fields that can break a rule, so that the walk passes over plain data such as layer statistics."""
    return tuple(
        field
        for field in descriptor.fields
        if field.enum_type is not None or (field.message_type is not None and _breakable(field.message_type))
    )


def _breakable(descriptor: Descriptor) -> bool:
    if descriptor.GetOptions().map_entry:
        return False
    return "version" in descriptor.fields_by_name or bool(_checked_fields(descriptor))


def _values(message: Message, field: FieldDescriptor, where: str) -> Iterator[tuple[object, str]]:
    value = getattr(message, field.name)
    if field.is_repeated:
        yield from ((item, f"{where}[{index}]") for index, item in enumerate(value))
    elif not field.has_presence or message.HasField(field.name):
        yield value, where


def _check_enum(enum: EnumDescriptor, value: object, where: str) -> None:
    values = enum.values_by_number
    if value in values and value != 0:
        return
    allowed = [item.name for number, item in values.items() if number != 0]
    problem = "UNSPECIFIED" if value == 0 else f"the unknown number {value}"
    raise ContractError(f"{where} is {problem}; send one of {', '.join(allowed)}.", field=where, allowed=allowed)
