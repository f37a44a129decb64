"""What every broker promises to its clients, on the double and on Oona alike: who gets what, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from esper_core import leyline
from support.bus import CATALOG_UPDATE, CRITICAL, HIGH, LOW, NORMAL, Inbox, consuming, say
from support.waiting import await_until


async def test_a_message_reaches_every_group_once(broker: Any) -> None:
    bus, one, two = broker.bus(), Inbox(), Inbox()
    async with consuming(bus, one, group="one"), consuming(bus, two, group="two"):
        await say(bus, "a")
        await say(bus, "b")
        await one.wait_for("a", "b")
        await two.wait_for("a", "b")
    assert one.texts == two.texts == ["a", "b"]


async def test_consumers_of_a_group_share_its_messages(broker: Any) -> None:
    bus, left, right = broker.bus(), Inbox(), Inbox()
    async with consuming(bus, left, consumer="left"), consuming(bus, right, consumer="right"):
        for number in range(20):
            await say(bus, str(number))
        await await_until(lambda: len(left.handled) + len(right.handled) >= 20)
    assert sorted(left.handled + right.handled, key=int) == [str(number) for number in range(20)]


async def test_what_was_published_before_the_group_existed_is_delivered(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    await say(bus, "early")
    async with consuming(bus, inbox):
        await inbox.wait_for("early")


async def test_a_handled_message_does_not_come_again(broker: Any) -> None:
    bus, first, second = broker.bus(), Inbox(), Inbox()
    await say(bus, "a")
    async with consuming(bus, first):
        await first.wait_for("a")
        await say(bus, "b")
        await first.wait_for("b")
    await say(bus, "c")
    async with consuming(bus, second):
        await second.wait_for("c")
    assert second.texts == ["c"]


@pytest.mark.req("OON-1")
@pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH, CRITICAL])
async def test_priority_arrives_unchanged_and_chooses_the_stream(broker: Any, priority: int) -> None:
    bus, inbox = broker.bus(), Inbox()
    receipt = await say(bus, "a", priority)
    async with consuming(bus, inbox):
        await inbox.wait_for("a")
    received = inbox.got[0]
    assert received.priority == received.message.priority == priority
    assert received.stream == receipt.stream == ("emergency" if priority in (HIGH, CRITICAL) else "telemetry")


async def test_the_emergency_stream_is_drained_first(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    for text, priority in (("n1", NORMAL), ("n2", NORMAL), ("h1", HIGH), ("c1", CRITICAL)):
        await say(bus, text, priority)
    async with consuming(bus, inbox, max_in_flight=1):
        await inbox.wait_for("n1", "n2", "h1", "c1")
    assert inbox.texts == ["h1", "c1", "n1", "n2"]


async def test_a_subscription_gets_its_message_types_only(broker: Any) -> None:
    bus, telemetry, catalog = broker.bus(), Inbox(), []

    async def keep(received: Any) -> None:
        catalog.append(received.message)

    update = _complete(leyline.CatalogUpdate(version=1))
    async with consuming(bus, telemetry), consuming(bus, keep, [CATALOG_UPDATE]):
        for priority in (NORMAL, HIGH):
            await bus.publish(CATALOG_UPDATE, update, priority)
            await say(bus, f"t{priority}", priority)
        await telemetry.wait_for(f"t{NORMAL}", f"t{HIGH}")
        await await_until(lambda: len(catalog) == 2)
    assert len(telemetry.texts) == 2


def _complete(update: leyline.CatalogUpdate) -> leyline.CatalogUpdate:
    """Fill whatever enum of the message must not be UNSPECIFIED."""
    for field in update.DESCRIPTOR.fields:
        if field.enum_type is not None and not field.is_repeated:
            setattr(update, field.name, 1)
    return update


async def test_the_same_message_id_is_stored_once(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    for _ in range(3):
        await say(bus, "a", message_id="01J00000000000000000000001")
    await say(bus, "b")
    async with consuming(bus, inbox):
        await inbox.wait_for("a", "b")
    assert inbox.texts == ["a", "b"]
