"""The buffer in front of the broker: bounded, the most urgent first."""

from __future__ import annotations

import asyncio

import pytest

from esper_core import leyline
from esper_core.bus.outbox import CRITICAL_ROOM, MAX_BATCH, Outbox
from esper_core.errors import ResourceExhaustedError

NORMAL, CRITICAL = leyline.MESSAGE_PRIORITY_NORMAL, leyline.MESSAGE_PRIORITY_CRITICAL


def envelope(name: str, priority: int = NORMAL, size: int = 1) -> leyline.BusEnvelope:
    return leyline.BusEnvelope(
        message_id=name, priority=leyline.MessagePriority.ValueType(priority), payload=b"x" * size
    )


async def ids(outbox: Outbox) -> list[str]:
    return [item.envelope.message_id for item in await outbox.take()]


async def test_the_most_urgent_go_first_and_equals_in_order() -> None:
    outbox = Outbox(10)
    for name, priority in (("a", NORMAL), ("b", CRITICAL), ("c", NORMAL), ("d", CRITICAL)):
        outbox.put(envelope(name, priority), None)
    assert await ids(outbox) == ["b", "d", "a", "c"]


async def test_what_is_put_back_keeps_its_place() -> None:
    outbox = Outbox(10)
    for name in "abc":
        outbox.put(envelope(name), None)
    batch = await outbox.take()
    outbox.put(envelope("d"), None)
    outbox.put_back(reversed(batch))
    assert await ids(outbox) == ["a", "b", "c", "d"]


async def test_batches_are_bounded_in_number_and_bytes() -> None:
    outbox = Outbox(1000)
    for number in range(MAX_BATCH + 1):
        outbox.put(envelope(str(number)), None)
    assert len(await outbox.take()) == MAX_BATCH
    await outbox.take()
    for number in range(6):
        outbox.put(envelope(str(number), size=256 * 1024), None)
    assert len(await outbox.take()) == 4


async def test_a_full_buffer_refuses_and_keeps_room_for_critical() -> None:
    outbox = Outbox(2)
    for name in "ab":
        outbox.put(envelope(name), None)
    with pytest.raises(ResourceExhaustedError, match="2 messages wait"):
        outbox.put(envelope("c"), None)
    for number in range(CRITICAL_ROOM):
        outbox.put(envelope(str(number), CRITICAL), None)
    with pytest.raises(ResourceExhaustedError):
        outbox.put(envelope("one too many", CRITICAL), None)


async def test_what_its_publisher_gave_up_leaves_and_makes_room() -> None:
    outbox = Outbox(1)
    outcome = asyncio.get_running_loop().create_future()
    outbox.put(envelope("a"), outcome)
    outcome.cancel()
    outbox.put(envelope("b"), None)
    assert await ids(outbox) == ["b"]
