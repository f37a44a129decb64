"""Everything that is written to and asked of Redis outside of subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from esper_core import leyline
from esper_core.bus import stream_of
from esper_core.errors import StateConflictError
from oona import scripts
from oona.entries import Letter, fields_of, to_letter
from oona.layout import Layout
from oona.redis_link import RedisLink, redis_errors

SEEN_MS: Final = 10 * 60 * 1000
MAX_LETTERS: Final = 1000


class Store:
    """Streams and dead letters.

    Parameters
    ----------
    link : RedisLink
        The connection.
    layout : Layout
        Names of keys.
    """

    def __init__(self, link: RedisLink, layout: Layout) -> None:
        self._redis: Any = link.pool
        self._layout = layout
        self._publish = self._redis.register_script(scripts.PUBLISH)
        self._redrive = self._redis.register_script(scripts.REDRIVE)

    async def publish(self, envelopes: Sequence[leyline.BusEnvelope]) -> None:
        """Store envelopes on their streams, each once however often it is published.

        Raises
        ------
        UnavailableError
            If Redis does not take them; some may have been stored.
        """
        if not envelopes:
            return
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for envelope in envelopes:
                    stream = self._layout.stream(stream_of(envelope.message_type, envelope.priority))
                    pairs = [part for pair in fields_of(envelope).items() for part in pair]
                    keys = [stream, self._layout.seen(envelope.message_id)]
                    await self._publish(keys=keys, args=[SEEN_MS, *pairs], client=pipe)
                await pipe.execute()

    async def bury(self, envelope: leyline.BusEnvelope, reason: str) -> None:
        """Keep an envelope that was refused at the entrance.

        Raises
        ------
        UnavailableError
            If Redis does not take it.
        """
        stream = stream_of(envelope.message_type, envelope.priority)
        with redis_errors():
            await self._redis.xadd(
                self._layout.dead_letters, {**fields_of(envelope), "s": stream, "g": "", "r": reason}
            )

    async def letters(self, limit: int, after: str = "") -> list[Letter]:
        """Return dead letters, the oldest first.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        first = f"({after}" if after else "-"
        with redis_errors():
            found = await self._redis.xrange(self._layout.dead_letters, first, "+", min(limit, MAX_LETTERS))
        return [to_letter(entry_id, fields) for entry_id, fields in found]

    async def letter(self, entry_id: str) -> Letter | None:
        """Return one dead letter, or None."""
        with redis_errors():
            found = await self._redis.xrange(self._layout.dead_letters, entry_id, entry_id)
        return to_letter(*found[0]) if found else None

    async def redrive(self, letter: Letter) -> bool:
        """Send a dead letter back to its group; False when somebody else did.

        Raises
        ------
        StateConflictError
            If it was refused at the entrance and no group ever had it.
        UnavailableError
            If Redis does not answer.
        """
        if not letter.group:
            raise StateConflictError(
                f"Dead letter {letter.entry.entry_id} was refused at the entrance; its producer must publish it again."
            )
        again = self._layout.again(letter.stream, letter.group)
        with redis_errors():
            return bool(await self._redrive(keys=[self._layout.dead_letters, again], args=[letter.entry.entry_id]))

    async def redrive_all(self) -> int:
        """Send back every dead letter that belongs to a group, as of now; return how many were sent.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        redriven, after = 0, ""
        with redis_errors():
            newest = await self._redis.xrevrange(self._layout.dead_letters, count=1)
        last = newest[0][0].decode() if newest else ""
        while last and after != last:
            page = [item for item in await self.letters(MAX_LETTERS, after) if not _later(item.entry.entry_id, last)]
            if not page:
                break
            after = page[-1].entry.entry_id
            for letter in page:
                if letter.group:
                    redriven += await self.redrive(letter)
        return redriven


def _later(entry_id: str, than: str) -> bool:
    return _number(entry_id) > _number(than)


def _number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
