"""What every broker promises to its clients: run on the double and on Oona alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from esper_core import leyline
from esper_core.bus import Bus, EnvelopeSealer
from esper_core.errors import ContractError, EsperError, ResourceExhaustedError, UnavailableError, ValidationError
from esper_core.security import Keyring
from support.bus import (
    CATALOG_UPDATE,
    CRITICAL,
    HIGH,
    LOW,
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


async def test_the_emergency_stream_is_drained_first(broker: Any) -> None:
    bus, inbox = broker.bus(), Inbox()
    for text, priority in (("n1", NORMAL), ("n2", NORMAL), ("h1", HIGH), ("c1", CRITICAL)):
        await say(bus, text, priority)
    async with consuming(bus, inbox, max_in_flight=1):
        await inbox.wait_for("n1", "n2", "h1", "c1")
    assert inbox.texts == ["h1", "c1", "n1", "n2"]


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


@pytest.mark.req("LEY-10")
@pytest.mark.parametrize(
    ("message_type", "priority"),
    [(0, NORMAL), (999, NORMAL), (TELEMETRY, 0)],
    ids=["no type", "unknown", "no priority"],
)
async def test_unspecified_is_refused(broker: Any, message_type: int, priority: int) -> None:
    with pytest.raises(ContractError):
        await broker.bus().publish(message_type, packet(), priority)


async def test_a_payload_of_another_class_is_refused(broker: Any) -> None:
    with pytest.raises(ValidationError, match="carries CatalogUpdate"):
        await broker.bus().publish(CATALOG_UPDATE, packet(), NORMAL)


def _unsigned(envelope: leyline.BusEnvelope) -> None:
    envelope.security.signature = ""


def _changed_payload(envelope: leyline.BusEnvelope) -> None:
    envelope.payload = packet("forged").SerializeToString()


def _raised_priority(envelope: leyline.BusEnvelope) -> None:
    envelope.priority = CRITICAL


def _no_priority(envelope: leyline.BusEnvelope) -> None:
    envelope.priority = leyline.MESSAGE_PRIORITY_UNSPECIFIED


def _aged(envelope: leyline.BusEnvelope) -> None:
    envelope.security.issued_at.seconds -= 3600


@pytest.mark.parametrize("spoil", [_unsigned, _changed_payload, _raised_priority, _no_priority, _aged])
async def test_what_was_not_signed_like_this_is_refused_and_kept_as_dead_letter(broker: Any, spoil: Any) -> None:
    sealer = EnvelopeSealer("mallory", broker.keyring)
    envelope = sealer.seal(sealer.compose(TELEMETRY, packet("bad"), NORMAL))
    spoil(envelope)
    inbox, bus = Inbox(), broker.bus()
    receipt = (await broker.publish_raw(envelope))[0]
    assert not receipt.accepted and receipt.error_code
    letters = await await_until(bus.dead_letters)
    assert letters[0].group == "" and letters[0].envelope.message_id == envelope.message_id
    with pytest.raises(EsperError, match="publish it again"):
        await bus.redrive(letters[0].entry_id)
    async with consuming(bus, inbox):
        await say(bus, "good")
        await inbox.wait_for("good")
    assert inbox.texts == ["good"]


async def test_a_foreign_key_is_refused(broker: Any) -> None:
    sealer = EnvelopeSealer("mallory", Keyring.generate("other"))
    receipt = (await broker.publish_raw(sealer.seal(sealer.compose(TELEMETRY, packet(), NORMAL))))[0]
    assert not receipt.accepted and "not in the keyring" in receipt.message


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


async def test_a_wrong_subscription_is_refused(broker: Any) -> None:
    bus = broker.bus()
    with pytest.raises(ValidationError, match="No stream is called"):
        await bus.consume([TELEMETRY], group="g", handler=Inbox(), streams=["nowhere"])
    with pytest.raises(ValidationError, match="group is empty"):
        await bus.consume([TELEMETRY], group="", handler=Inbox())
