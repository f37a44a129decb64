"""What the tests of the bus share: payloads, a handler that collects, and the two brokers behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from esper_core import leyline
from esper_core.bus import Bus, Received
from esper_core.clocks import SYSTEM_CLOCK, to_timestamp
from esper_core.errors import InternalError, UnavailableError
from esper_core.ids import new_ulid
from support.waiting import await_until

TELEMETRY = leyline.BUS_MESSAGE_TYPE_TELEMETRY
KERNEL_ERROR = leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR
CATALOG_UPDATE = leyline.BUS_MESSAGE_TYPE_CATALOG_UPDATE
LOW, NORMAL = leyline.MESSAGE_PRIORITY_LOW, leyline.MESSAGE_PRIORITY_NORMAL
HIGH, CRITICAL = leyline.MESSAGE_PRIORITY_HIGH, leyline.MESSAGE_PRIORITY_CRITICAL


def packet(text: str = "x", priority: int = NORMAL) -> leyline.TelemetryPacket:
    """Return a valid telemetry packet that can be told by its metric's unit."""
    made = leyline.TelemetryPacket(
        version=1,
        packet_id=new_ulid(),
        timestamp=to_timestamp(SYSTEM_CLOCK.wall()),
        source="test",
        level=leyline.TELEMETRY_LEVEL_INFO,
        priority=leyline.MessagePriority.ValueType(priority),
    )
    made.metrics.add(name=text, value=1.0)
    return made


def text_of(received: Received) -> str:
    """Return what `packet` was made with."""
    name: str = received.message.metrics[0].name
    return name


async def say(bus: Bus, text: str, priority: int = NORMAL, **more: Any) -> Any:
    """Publish a packet and wait for its receipt."""
    return await bus.publish(TELEMETRY, packet(text, priority), priority, **more)


@dataclass
class Inbox:
    """A handler that keeps what it got; `fail` decides which messages it refuses."""

    got: list[Received] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    fail: Callable[[Received], Exception | None] = lambda received: None
    hold: asyncio.Event | None = None

    async def __call__(self, received: Received) -> None:
        """Handle one message; what the broker tells about itself is passed over."""
        if received.source == "oona":
            return
        self.got.append(received)
        if self.hold is not None:
            await self.hold.wait()
        error = self.fail(received)
        if error is not None:
            raise error
        self.handled.append(text_of(received))

    @property
    def texts(self) -> list[str]:
        """What was delivered, handled or not."""
        return [text_of(received) for received in self.got]

    async def wait_for(self, *texts: str, deadline_s: float = 15.0) -> None:
        """Wait until these were handled."""
        wanted = set(texts)
        await await_until(lambda: wanted <= set(self.handled), deadline_s, what=f"{wanted} being handled")


@asynccontextmanager
async def consuming(
    bus: Bus, handler: Any, types: Sequence[int] = (TELEMETRY,), *, group: str = "g", **more: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """Consume during a with block."""
    task = asyncio.create_task(bus.consume(types, group=group, handler=handler, **more))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def always(error: Exception) -> Callable[[Received], Exception | None]:
    """Fail every time."""
    return lambda received: error


def a_passing_fault() -> Exception:
    """Return an error that a retry may help."""
    return UnavailableError("not now")


def a_lasting_fault() -> Exception:
    """Return an error that no retry helps."""
    return InternalError("never")
