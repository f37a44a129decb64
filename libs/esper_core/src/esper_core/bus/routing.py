"""Which stream carries a message: by its type, and by its priority, which the producer set once and nobody changes."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, TypeAlias

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.errors import ContractError, ValidationError

MessageType: TypeAlias = leyline.BusMessageType.ValueType
Priority: TypeAlias = leyline.MessagePriority.ValueType

NORMAL: Final = "normal"
EMERGENCY: Final = "emergency"
STREAMS: Final = (EMERGENCY, NORMAL, "telemetry", "policy", "kernels.requests", "kernels.ready", "kernels.errors")
"""Logical names of all streams, the emergency stream first."""

URGENT: Final = frozenset({leyline.MESSAGE_PRIORITY_HIGH, leyline.MESSAGE_PRIORITY_CRITICAL})

_HOME: Final[MappingProxyType[int, str]] = MappingProxyType(
    {
        leyline.BUS_MESSAGE_TYPE_TELEMETRY: "telemetry",
        leyline.BUS_MESSAGE_TYPE_POLICY_UPDATE: "policy",
        leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST: "kernels.requests",
        leyline.BUS_MESSAGE_TYPE_KERNEL_READY: "kernels.ready",
        leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR: "kernels.errors",
        leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL: EMERGENCY,
    }
)

PAYLOADS: Final[MappingProxyType[int, type[Message]]] = MappingProxyType(
    {
        leyline.BUS_MESSAGE_TYPE_SYSTEM_STATE: leyline.SystemStatePacket,
        leyline.BUS_MESSAGE_TYPE_ADAPTATION_COMMAND: leyline.AdaptationCommand,
        leyline.BUS_MESSAGE_TYPE_FIELD_REPORT: leyline.FieldReport,
        leyline.BUS_MESSAGE_TYPE_TELEMETRY: leyline.TelemetryPacket,
        leyline.BUS_MESSAGE_TYPE_POLICY_UPDATE: leyline.PolicyUpdate,
        leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST: leyline.KernelPrefetchRequest,
        leyline.BUS_MESSAGE_TYPE_KERNEL_READY: leyline.KernelReady,
        leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR: leyline.KernelError,
        leyline.BUS_MESSAGE_TYPE_CATALOG_UPDATE: leyline.CatalogUpdate,
        leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL: leyline.EmergencySignal,
        leyline.BUS_MESSAGE_TYPE_RUN_EVENT: leyline.RunEvent,
        leyline.BUS_MESSAGE_TYPE_BSDS_ISSUED: leyline.Bsds,
        leyline.BUS_MESSAGE_TYPE_BSDS_FAILED: leyline.BsdsFailure,
        leyline.BUS_MESSAGE_TYPE_BENCHMARK_REPORT: leyline.BlueprintBenchmark,
    }
)
"""Message type to the class of its payload."""


def stream_of(message_type: int, priority: int) -> str:
    """Return the logical stream of a message; HIGH and CRITICAL ride the emergency stream."""
    return EMERGENCY if priority in URGENT else _HOME.get(message_type, NORMAL)


def streams_for(message_types: Iterable[int], streams: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the logical streams that a subscription reads, the emergency stream always first.

    Parameters
    ----------
    message_types : Iterable of BusMessageType
        What is wanted; empty means everything on `streams`.
    streams : Iterable of str
        Logical streams; empty means those that carry the message types, or all when there are none either.

    Raises
    ------
    ValidationError
        If a stream does not exist.
    """
    asked = set(streams)
    unknown = asked - set(STREAMS)
    if unknown:
        raise ValidationError(
            f"No stream is called {sorted(unknown)[0]!r}; the streams are {', '.join(STREAMS)}.",
            field="streams",
            allowed=STREAMS,
        )
    if not asked:
        asked = {_HOME.get(message_type, NORMAL) for message_type in message_types} or set(STREAMS)
    return tuple(name for name in STREAMS if name in asked or name == EMERGENCY)


def group_key(group: str, message_types: Iterable[int]) -> str:
    """Return the name under which a group with these message types keeps its place in a stream.

    The types belong to it because two subscriptions of one group with different types would otherwise
    take messages away from each other.
    """
    types = sorted(set(message_types))
    return f"{group}@{'.'.join(map(str, types))}" if types else group


def type_name(message_type: int) -> str:
    """Return a type's name without prefix, for people and labels."""
    if message_type not in leyline.BusMessageType.values():
        return str(message_type)
    return leyline.BusMessageType.Name(MessageType(message_type)).removeprefix("BUS_MESSAGE_TYPE_")


def payload_class(message_type: int) -> type[Message]:
    """Return the class of a type's payload.

    Raises
    ------
    ContractError
        If the type is UNSPECIFIED or unknown.
    """
    if message_type not in PAYLOADS:
        raise ContractError(
            f"message_type is {message_type}; send one of the BusMessageType values.",
            field="message_type",
            allowed=[type_name(known) for known in PAYLOADS],
        )
    return PAYLOADS[message_type]
