"""What no broker takes: the unspecified, the unsigned, the foreign, and subscriptions that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from esper_core import leyline
from esper_core.bus import EnvelopeSealer
from esper_core.errors import ContractError, EsperError, ValidationError
from esper_core.security import Keyring
from support.bus import CATALOG_UPDATE, CRITICAL, NORMAL, TELEMETRY, Inbox, consuming, packet, say
from support.waiting import await_until


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


async def test_a_wrong_subscription_is_refused(broker: Any) -> None:
    bus = broker.bus()
    with pytest.raises(ValidationError, match="No stream is called"):
        await bus.consume([TELEMETRY], group="g", handler=Inbox(), streams=["nowhere"])
    with pytest.raises(ValidationError, match="group is empty"):
        await bus.consume([TELEMETRY], group="", handler=Inbox())
