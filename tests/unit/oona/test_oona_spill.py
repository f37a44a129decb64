"""The journal for CRITICAL messages: bounded, durable, emptied once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import ResourceExhaustedError, UnavailableError
from oona.spill import Spill

pytestmark = pytest.mark.req("OON-4")


def envelope(number: int) -> leyline.BusEnvelope:
    return leyline.BusEnvelope(version=1, message_id=str(number), payload=b"p" * number)


class Stream:
    """Takes what is drained."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.ids: list[str] = []

    async def publish(self, envelopes: Sequence[leyline.BusEnvelope]) -> None:
        if self.away:
            raise UnavailableError("Redis is away.")
        self.ids += [one.message_id for one in envelopes]


async def test_what_was_taken_is_drained_in_order_and_only_once(tmp_path: Path) -> None:
    spill, stream = Spill(tmp_path / "spill.journal", 10), Stream()
    for number in range(5):
        await spill.add(envelope(number))
    assert await spill.drain(stream.publish) == 5
    assert await spill.drain(stream.publish) == 0
    assert stream.ids == ["0", "1", "2", "3", "4"] and spill.waiting == 0


async def test_it_survives_its_process(tmp_path: Path) -> None:
    first = Spill(tmp_path / "spill.journal", 10)
    await first.add(envelope(1))
    first.close()
    second, stream = Spill(tmp_path / "spill.journal", 10), Stream()
    assert second.waiting == 1
    await second.drain(stream.publish)
    assert stream.ids == ["1"]


async def test_nothing_is_forgotten_while_redis_stays_away(tmp_path: Path) -> None:
    spill, stream = Spill(tmp_path / "spill.journal", 10), Stream(away=True)
    await spill.add(envelope(1))
    with pytest.raises(UnavailableError):
        await spill.drain(stream.publish)
    stream.away = False
    await spill.add(envelope(2))
    assert await spill.drain(stream.publish) == 2


async def test_a_full_journal_refuses_in_words(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill.journal", 2)
    for number in range(2):
        await spill.add(envelope(number))
    with pytest.raises(ResourceExhaustedError, match="already holds 2"):
        await spill.add(envelope(3))
