"""What every broker does when a handler fails, a consumer vanishes or the broker is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from esper_core.bus import Bus
from esper_core.errors import ResourceExhaustedError, UnavailableError
from support.bus import (
    CRITICAL,
    HIGH,
    NORMAL,
    TELEMETRY,
    Inbox,
    a_lasting_fault,
    a_passing_fault,
    always,
    consuming,
    packet,
    say,
    text_of,
)
from support.waiting import await_until


@pytest.mark.req("OON-1")
async def test_priority_survives_retry_dead_letter_and_redrive(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    inbox.fail = lambda received: a_passing_fault() if len(inbox.got) <= 5 else None
    async with consuming(bus, inbox):
        await say(bus, "a", HIGH)
        letter = (await await_until(bus.dead_letters))[0]
        await bus.redrive(letter.entry_id)
        await inbox.wait_for("a")
    assert letter.envelope.priority == HIGH
    assert {received.priority for received in inbox.got} == {HIGH}
    assert {received.stream for received in inbox.got} == {"emergency"}
    assert len({received.message_id for received in inbox.got}) == 1


@pytest.mark.req("OON-6")
async def test_a_failed_message_comes_again_to_the_group_that_failed_only(broker: Any) -> None:
    bus, failing, other = broker.bus(), Inbox(), Inbox()
    failing.fail = lambda received: a_passing_fault() if received.attempt < 3 else None
    async with consuming(bus, failing, group="failing"), consuming(bus, other, group="other"):
        await say(bus, "a")
        await failing.wait_for("a")
        await say(bus, "b")
        await other.wait_for("a", "b")
    assert [received.attempt for received in failing.got if text_of(received) == "a"] == [1, 2, 3]
    assert other.texts == ["a", "b"]


@pytest.mark.req("OON-6")
async def test_after_five_failures_a_message_is_a_dead_letter_and_can_be_redriven(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox(fail=always(a_passing_fault()))
    async with consuming(bus, inbox):
        await say(bus, "poison")
        letters = await await_until(bus.dead_letters)
        assert len(inbox.got) == 5
        assert (letters[0].attempts, letters[0].stream) == (5, "telemetry")
        assert letters[0].group.startswith("g") and "not now" in letters[0].reason
        inbox.fail = lambda received: None
        answer = await bus.redrive()
        assert (answer.redriven, list(answer.missing)) == (1, [])
        await inbox.wait_for("poison")
    assert not await bus.dead_letters()


@pytest.mark.req("OON-6")
async def test_an_error_that_no_retry_helps_goes_to_the_dead_letters_at_once(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox(fail=always(a_lasting_fault()))
    async with consuming(bus, inbox):
        await say(bus, "a")
        letters = await await_until(bus.dead_letters)
    assert len(inbox.got) == 1 and "never" in letters[0].reason


async def test_redrive_names_what_is_not_there(broker: Any) -> None:
    assert list((await broker.bus().redrive("1-1")).missing) == ["1-1"]


@pytest.mark.req("OON-6")
async def test_what_a_vanished_consumer_held_is_claimed_and_delivered(broker: Any) -> None:
    bus, first, second = broker.bus(), Inbox(hold=asyncio.Event()), Inbox()
    async with consuming(bus, first, consumer="first"):
        await say(bus, "a")
        await await_until(lambda: first.got)
    async with consuming(bus, second, consumer="second"):
        await second.wait_for("a")
    assert second.got[0].claimed and second.got[0].attempt == 2


async def test_messages_wait_while_the_broker_is_away_and_arrive_afterwards(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    await say(bus, "before")
    await broker.go_away()
    for number in range(5):
        bus.post(TELEMETRY, packet(str(number)), NORMAL)
    await await_until(lambda: bus.problem, what="the bus saying that Oona is away")
    assert bus.waiting or bus.problem
    await broker.come_back()
    async with consuming(bus, inbox):
        await inbox.wait_for("before", *"01234", deadline_s=30)
    assert bus.problem == "" and inbox.texts == ["before", *"01234"]


async def test_a_full_buffer_refuses_but_has_room_for_critical(broker: Any) -> None:
    bus = broker.bus(buffer=3)
    await say(bus, "before")
    await broker.go_away()
    with pytest.raises(ResourceExhaustedError) as refused:
        for number in range(20):
            bus.post(TELEMETRY, packet(str(number)), NORMAL)
    assert refused.value.retry_after_s
    bus.post(TELEMETRY, packet("alarm", CRITICAL), CRITICAL)


async def test_publish_tells_when_the_broker_does_not_take_the_message(broker: Any) -> None:
    bus = broker.bus()
    await broker.go_away()
    with pytest.raises(UnavailableError, match="message_id"):
        await say(bus, "a", timeout_s=0.3)
    await await_until(lambda: not _outcomes_waiting(bus))


def _outcomes_waiting(bus: Bus) -> bool:
    return any(not item.given_up for item in bus._outbox._heap)


async def test_a_subscription_survives_an_outage(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    async with consuming(bus, inbox):
        await say(bus, "before")
        await inbox.wait_for("before")
        await broker.go_away()
        await broker.come_back()
        await say(bus, "after", timeout_s=30)
        await inbox.wait_for("after", deadline_s=30)
    assert inbox.handled == ["before", "after"]


async def test_a_handler_that_outlives_its_connection_does_not_run_twice(broker: Any) -> None:
    bus, hold = broker.bus(), asyncio.Event()
    inbox = Inbox(hold=hold)
    async with consuming(bus, inbox):
        await say(bus, "a")
        await await_until(lambda: inbox.got)
        await broker.go_away()
        await broker.come_back()
        await say(bus, "b", timeout_s=30)
        hold.set()
        await inbox.wait_for("a", "b", deadline_s=30)
    assert inbox.handled == ["a", "b"]
