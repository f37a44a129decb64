"""gRPC adapter of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeAlias

import grpc.aio

from esper_core.errors import EsperError, ValidationError
from esper_core.pb.esper.oona.v1 import oona_pb2, oona_pb2_grpc
from oona.backlog import Backlogs, StreamState
from oona.convert import refusal_receipt, to_dead_letter, to_stream_info
from oona.publisher import Publisher
from oona.spill import Spill
from oona.store import Store
from oona.subscription import Subscription, checked
from oona.telling import Teller

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Outcomes: TypeAlias = Iterable[EsperError | oona_pb2.PublishReceipt]


class BrokerServicer(oona_pb2_grpc.BrokerServicer):
    """Serves `esper.oona.v1.Broker`.

    Parameters
    ----------
    publisher : Publisher
        The way in.
    subscriptions : callable
        Makes a subscription from a checked opening.
    store, spill, backlogs : Store, Spill, Backlogs
        For the listings.
    gates : callable
        Tells whether a logical stream is under back-pressure.
    teller : Teller
        Shows how many subscribe.
    draining : asyncio.Event
        Set when the server shuts down.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        publisher: Publisher,
        subscriptions: Callable[[oona_pb2.SubscribeOpen], Subscription],
        store: Store,
        spill: Spill,
        backlogs: Backlogs,
        under_pressure: Callable[[str], bool],
        teller: Teller,
        draining: asyncio.Event,
    ) -> None:
        self._publisher = publisher
        self._subscriptions = subscriptions
        self._store = store
        self._spill = spill
        self._backlogs = backlogs
        self._under_pressure = under_pressure
        self._teller = teller
        self._draining = draining
        self._open = 0

    async def Publish(  # noqa: D102
        self, request: oona_pb2.PublishRequest, context: Context
    ) -> oona_pb2.PublishResponse:
        outcomes = await self._publisher.publish(request.envelopes)
        if len(outcomes) == 1 and isinstance(outcomes[0], EsperError):
            raise outcomes[0]
        return _receipts(request, outcomes)

    async def PublishStream(  # noqa: D102
        self, request_iterator: AsyncIterator[oona_pb2.PublishRequest], context: Context
    ) -> AsyncIterator[oona_pb2.PublishResponse]:
        async for request in _until(request_iterator, self._draining):
            yield _receipts(request, await self._publisher.publish(request.envelopes))

    async def Subscribe(  # noqa: D102
        self, request_iterator: AsyncIterator[oona_pb2.SubscribeRequest], context: Context
    ) -> AsyncIterator[oona_pb2.Delivery]:
        subscription = self._subscriptions(await _opening(request_iterator))
        try:
            await subscription.open()
            self._count(1)
            yield oona_pb2.Delivery(opened=True)
            answers = asyncio.create_task(_take_answers(subscription, request_iterator), name="answers")
            drain = asyncio.create_task(self._draining.wait(), name="drain")
            for task in (answers, drain):
                task.add_done_callback(lambda _: subscription.end())
            try:
                async for delivery in subscription.deliveries():
                    yield delivery
                if answers.done():
                    answers.result()
            finally:
                await _cancelled(answers, drain)
                self._count(-1)
        finally:
            await subscription.close()

    async def ListStreams(  # noqa: D102
        self, request: oona_pb2.ListStreamsRequest, context: Context
    ) -> oona_pb2.ListStreamsResponse:
        states: list[StreamState] = await self._backlogs.streams()
        infos = [to_stream_info(state, back_pressure=self._under_pressure(state.logical)) for state in states]
        return oona_pb2.ListStreamsResponse(streams=infos, spilled=self._spill.waiting)

    async def ListDeadLetters(  # noqa: D102
        self, request: oona_pb2.ListDeadLettersRequest, context: Context
    ) -> oona_pb2.ListDeadLettersResponse:
        if request.limit > 1000:
            raise ValidationError(f"limit is {request.limit}.", field="limit", allowed="0 to 1000")
        letters = await self._store.letters(request.limit or 100, _entry_id(request.after, "after"))
        return oona_pb2.ListDeadLettersResponse(letters=[to_dead_letter(letter) for letter in letters])

    async def Redrive(  # noqa: D102
        self, request: oona_pb2.RedriveRequest, context: Context
    ) -> oona_pb2.RedriveResponse:
        if not request.entry_ids:
            return oona_pb2.RedriveResponse(redriven=await self._store.redrive_all())
        answer = oona_pb2.RedriveResponse()
        for entry_id in request.entry_ids:
            letter = await self._store.letter(_entry_id(entry_id, "entry_ids"))
            if letter is not None and await self._store.redrive(letter):
                answer.redriven += 1
            else:
                answer.missing.append(entry_id)
        return answer

    def _count(self, change: int) -> None:
        self._open += change
        self._teller.instruments.gauge("oona.subscribers", self._open)


def _receipts(request: oona_pb2.PublishRequest, outcomes: Outcomes) -> oona_pb2.PublishResponse:
    response = oona_pb2.PublishResponse()
    for envelope, outcome in zip(request.envelopes, outcomes, strict=True):
        receipt = refusal_receipt(envelope.message_id, outcome) if isinstance(outcome, EsperError) else outcome
        response.receipts.append(receipt)
    return response


async def _opening(requests: AsyncIterator[oona_pb2.SubscribeRequest]) -> oona_pb2.SubscribeOpen:
    async for request in requests:
        if request.WhichOneof("request") == "open":
            return checked(request.open)
        break
    raise ValidationError("The first message has to open the subscription.", field="open")


async def _take_answers(subscription: Subscription, requests: AsyncIterator[oona_pb2.SubscribeRequest]) -> None:
    async for request in requests:
        which = request.WhichOneof("request")
        if which == "ack":
            subscription.ack(request.ack.delivery_ids)
        elif which == "nack":
            nack = request.nack
            await subscription.nack(nack.delivery_id, nack.reason, permanent=nack.permanent)
        else:
            raise ValidationError("A subscription is opened once.", field="open")


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until(
    requests: AsyncIterator[oona_pb2.PublishRequest], draining: asyncio.Event
) -> AsyncIterator[oona_pb2.PublishRequest]:
    """Yield requests until the client ends or the server drains."""
    stop = asyncio.create_task(draining.wait(), name="drain")
    try:
        while True:
            upcoming = asyncio.ensure_future(anext(requests, None))
            try:
                await asyncio.wait({upcoming, stop}, return_when=asyncio.FIRST_COMPLETED)
                request = await upcoming if upcoming.done() else None
            finally:
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.gather(upcoming, return_exceptions=True)
            if request is None:
                return
            yield request
    finally:
        await _cancelled(stop)


def _entry_id(text: str, field: str) -> str:
    if text and not text.replace("-", "", 1).isdigit():
        raise ValidationError(f"{text[:80]!r} is no entry id.", field=field, allowed="digits, a dash, digits")
    return text
