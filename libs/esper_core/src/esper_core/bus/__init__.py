"""The bus: `BusClient` publishes to and consumes from Oona, `InMemoryBus` is its double for unit tests.

The names below load their modules when they are first used, so that nobody pays for gRPC who does not call it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper_core.bus.bus import Bus
    from esper_core.bus.client import BusClient
    from esper_core.bus.double import InMemoryBus
    from esper_core.bus.envelope import EnvelopeSealer, EnvelopeVerifier, open_payload
    from esper_core.bus.memory import InMemoryBroker
    from esper_core.bus.outbox import Receipt
    from esper_core.bus.place import BusPlace
    from esper_core.bus.received import Handler, Received
    from esper_core.bus.retry import RetryPolicy
    from esper_core.bus.routing import STREAMS, group_key, stream_of, streams_for

__all__ = [
    "STREAMS",
    "Bus",
    "BusClient",
    "BusPlace",
    "EnvelopeSealer",
    "EnvelopeVerifier",
    "Handler",
    "InMemoryBroker",
    "InMemoryBus",
    "Receipt",
    "Received",
    "RetryPolicy",
    "group_key",
    "open_payload",
    "stream_of",
    "streams_for",
]

_HOMES: Final = {
    "Bus": "bus",
    "BusClient": "client",
    "BusPlace": "place",
    "EnvelopeSealer": "envelope",
    "EnvelopeVerifier": "envelope",
    "Handler": "received",
    "InMemoryBroker": "memory",
    "InMemoryBus": "double",
    "Received": "received",
    "Receipt": "outbox",
    "RetryPolicy": "retry",
    "STREAMS": "routing",
    "group_key": "routing",
    "open_payload": "envelope",
    "stream_of": "routing",
    "streams_for": "routing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
