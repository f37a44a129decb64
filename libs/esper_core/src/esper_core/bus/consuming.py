"""One consumer: reads deliveries, runs the handler on each, answers with its outcome, reconnects for ever.

Handlers outlive a lost connection: when the broker delivers a message again that is still being handled, or that was
handled while nobody could be told, the handler does not run a second time.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from opentelemetry import context, propagate

from esper_core import leyline
from esper_core.bus.envelope import EnvelopeVerifier, open_payload
from esper_core.bus.link import Link, Session
from esper_core.bus.received import Handler, Received, is_permanent
from esper_core.bus.routing import EMERGENCY, type_name
from esper_core.bus.telling import Teller
from esper_core.errors import EsperError, ValidationError
from esper_core.logs import get_logger
from esper_core.pb.esper.oona.v1 import oona_pb2
from esper_core.rpc.retry import Backoff

REMEMBERED_OUTCOMES: Final = 2048
MAX_REASON_CHARS: Final = 500
_BACKOFF: Final = Backoff(first_s=0.1, longest_s=3.0)
_log: Final = get_logger("bus.consumer")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to tell the broker about a delivery; an empty reason means that it was handled."""

    reason: str = ""
    permanent: bool = False


@dataclass(order=True, slots=True)
class _Queued:
    rank: tuple[bool, int, int]
    delivery: oona_pb2.Delivery = field(compare=False)


class Consumer:
    """Runs one handler for one subscription.

    Parameters
    ----------
    link : Link
        The way to the broker.
    opening : SubscribeOpen
        What to subscribe to.
    handler : Handler
        Gets every message; its return acknowledges, its exception gives back.
    verifier : EnvelopeVerifier
        Checks what was delivered.
    teller : Teller
        Hears of what happens.
    concurrency : int
        Handlers that run at a time.
    """

    def __init__(
        self,
        link: Link,
        opening: oona_pb2.SubscribeOpen,
        handler: Handler,
        verifier: EnvelopeVerifier,
        teller: Teller,
        *,
        concurrency: int = 1,
    ) -> None:
        self._link = link
        self._opening = opening
        self._handler = handler
        self._verifier = verifier
        self._teller = teller
        self._concurrency = concurrency
        self._queue: asyncio.PriorityQueue[_Queued] = asyncio.PriorityQueue()
        self._order = count()
        self._known: set[str] = set()
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
        self._session: Session | None = None
        self._random = random.Random()

    async def run(self) -> None:
        """Consume until cancelled.

        Raises
        ------
        ValidationError
            If the broker says that the subscription itself is wrong.
        """
        workers = [asyncio.create_task(self._work(), name=f"bus worker {n}") for n in range(self._concurrency)]
        try:
            await self._stay_subscribed()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _stay_subscribed(self) -> None:
        failures = 0
        while True:
            try:
                async with self._link.subscribe(self._opening) as session:
                    failures = 0
                    _log.info("subscribed", group=self._opening.group, consumer=self._opening.consumer)
                    await self._read(session)
            except ValidationError:
                raise
            except EsperError as error:
                log = _log.warning if failures == 0 else _log.debug
                log("subscription lost; it is opened again", group=self._opening.group, reason=error.message)
            failures += 1
            await asyncio.sleep(_BACKOFF.wait_s(failures, self._random))

    async def _read(self, session: Session) -> None:
        self._session = session
        try:
            async for delivery in session.deliveries():
                await self._take(delivery, session)
        finally:
            self._session = None
            self._forget_queued()

    async def _take(self, delivery: oona_pb2.Delivery, session: Session) -> None:
        done = self._outcomes.get(delivery.delivery_id)
        if done is not None:
            await _answer(session, delivery.delivery_id, done)
        elif delivery.delivery_id not in self._known:
            self._known.add(delivery.delivery_id)
            rank = (delivery.stream != EMERGENCY, -delivery.envelope.priority, next(self._order))
            self._queue.put_nowait(_Queued(rank, delivery))

    def _forget_queued(self) -> None:
        """Deliveries that no handler has begun with come again after the reconnection."""
        while not self._queue.empty():
            self._known.discard(self._queue.get_nowait().delivery.delivery_id)

    async def _work(self) -> None:
        while True:
            delivery = (await self._queue.get()).delivery
            outcome = await self._outcome(delivery)
            self._outcomes[delivery.delivery_id] = outcome
            self._known.discard(delivery.delivery_id)
            while len(self._outcomes) > REMEMBERED_OUTCOMES:
                self._outcomes.popitem(last=False)
            await self._tell(delivery, outcome)

    async def _tell(self, delivery: oona_pb2.Delivery, outcome: Outcome) -> None:
        name = "failed" if outcome.reason else "handled"
        self._teller.count("bus.consume_total", outcome=name)
        if self._session is None:
            return
        try:
            await _answer(self._session, delivery.delivery_id, outcome)
        except EsperError as error:
            # The outcome is remembered and told when the message is delivered again.
            _log.info("an answer did not reach the broker", delivery=delivery.delivery_id, reason=error.message)

    async def _outcome(self, delivery: oona_pb2.Delivery) -> Outcome:
        try:
            self._verifier.verify(delivery.envelope)
            received = Received(
                open_payload(delivery.envelope), delivery.envelope, delivery.stream, delivery.attempt, delivery.claimed
            )
        except EsperError as error:
            self._tell_rejected(delivery, error)
            return Outcome(f"The consumer refused it: {error.message}"[:MAX_REASON_CHARS], permanent=True)
        return await self._handled(received)

    async def _handled(self, received: Received) -> Outcome:
        token = context.attach(propagate.extract(dict(received.envelope.attributes)))
        try:
            await self._handler(received)
        except Exception as error:
            # Whatever the handler raises is its verdict on the message, and it is told to the broker.
            permanent = is_permanent(error)
            _log.warning(
                "a handler failed",
                message_type=type_name(received.message_type),
                message_id=received.message_id,
                attempt=received.attempt,
                permanent=permanent,
                exc_info=error if received.attempt == 1 and not isinstance(error, EsperError) else None,
                reason=str(error),
            )
            return Outcome(f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS], permanent)
        finally:
            context.detach(token)
        return Outcome()

    def _tell_rejected(self, delivery: oona_pb2.Delivery, error: EsperError) -> None:
        self._teller.count("bus.rejected_total", code=error.code)
        self._teller.event(
            "bus_envelope_rejected",
            leyline.TELEMETRY_LEVEL_CRITICAL,
            f"A delivered envelope did not pass verification: {error.message}",
            message_id=delivery.envelope.message_id[:64],
            source=delivery.envelope.source[:64],
            stream=delivery.stream,
            code=error.code,
        )


async def _answer(session: Session, delivery_id: str, outcome: Outcome) -> None:
    if outcome.reason:
        await session.nack(delivery_id, outcome.reason, permanent=outcome.permanent)
    else:
        await session.ack(delivery_id)
