"""The two brokers that the contract suite runs on: the double in memory, and Oona with a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from esper_core import leyline
from esper_core.bus import Bus, BusClient, InMemoryBroker, InMemoryBus, RetryPolicy
from esper_core.security import Keyring
from support.oona import running_oona

FAST_RETRY = RetryPolicy(max_attempts=5, first_delay_s=0.01, longest_delay_s=0.05)


@dataclass
class Stack:
    """A broker of either kind, and buses to it.

    Attributes
    ----------
    keyring : Keyring
        The keys of all parties.
    go_away, come_back : callable
        Let the broker be away for its clients, and back again with everything it knew.
    """

    keyring: Keyring
    make: Callable[..., Bus]
    go_away: Callable[[], Awaitable[None]]
    come_back: Callable[[], Awaitable[None]]
    link: Callable[[], Any]
    buses: list[Bus] = field(default_factory=list)

    def bus(self, source: str = "test", **more: Any) -> Bus:
        """Open a bus."""
        made = self.make(source, **more)
        self.buses.append(made)
        return made

    async def publish_raw(self, *envelopes: leyline.BusEnvelope) -> Any:
        """Hand envelopes to the broker as they are."""
        link = self.link()
        try:
            return await link.publish(list(envelopes), 5.0)
        finally:
            await link.close()


def memory_stack() -> Stack:
    """Return the double."""
    keyring = Keyring.generate()
    broker = InMemoryBroker(keyring, retry=FAST_RETRY)

    async def go_away() -> None:
        broker.go_away()

    async def come_back() -> None:
        broker.come_back()

    def make(source: str, **more: Any) -> Bus:
        return InMemoryBus(source, keyring, broker=broker, **more)

    return Stack(keyring, make, go_away, come_back, lambda: broker)


async def real_stack(stack: AsyncExitStack, redis_url: str, folder: Path) -> Stack:
    """Start Oona in this process, on a real Valkey."""
    from esper_core.bus.grpc_link import GrpcLink

    keyring = Keyring.generate()
    oona = await stack.enter_async_context(running_oona(redis_url, folder, keyring))

    def make(source: str, **more: Any) -> Bus:
        return BusClient(oona.address, source, keyring, **more)

    return Stack(keyring, make, oona.stop, oona.start, lambda: GrpcLink(oona.address, "raw", keyring))


@pytest.fixture(params=["memory", "oona"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stack]:
    """The broker under test."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            made = memory_stack()
        else:
            made = await real_stack(stack, request.getfixturevalue("redis_url"), tmp_path)
        try:
            yield made
        finally:
            for bus in made.buses:
                await bus.close(drain_s=0)
