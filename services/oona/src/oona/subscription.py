"""One open subscription: two lanes, the emergency lane first, and what its consumer still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from esper_core.breaker import CircuitBreaker
from esper_core.bus import RetryPolicy, group_key, streams_for
from esper_core.bus.routing import EMERGENCY, payload_class
from esper_core.errors import EsperError, UnavailableError, ValidationError
from esper_core.logs import get_logger
from esper_core.pb.esper.oona.v1 import oona_pb2
from oona.group import GroupMember, Taken
from oona.lane import Lane
from oona.layout import Place
from oona.telling import Teller

MAX_WINDOW: Final = 1024
MAX_NAME_CHARS: Final = 128
MAX_REASON_CHARS: Final = 1000
LOOK_FOR_RETRIES_S: Final = 5.0
"""How often to look for retries that a consumer left that has died since."""
_log: Final = get_logger("oona.subscription")


@dataclass(frozen=True, slots=True)
class Times:
    """How long silence is borne: until a claim (ms), and by one living consumer with one delivery (s)."""

    claim_idle_ms: int
    delivery_timeout_s: float


@dataclass(slots=True)
class Held:
    """A message of this consumer without an answer; `delivered` once it takes room in its lane."""

    place: Place
    lane: Lane
    since_s: float
    delivered: bool = False


class Subscription:
    """Delivers to one consumer.

    Parameters
    ----------
    opening : SubscribeOpen
        What the consumer asks for; checked by `checked`.
    member : GroupMember
        The consumer in its group.
    connections : callable
        Opens a Redis connection for one lane.
    retry : RetryPolicy
        Rules of redelivery.
    times : Times
        How long silence is borne.
    teller : Teller
        Hears of everything.
    breaker : CircuitBreaker
        Spares consumers the wait for a Redis that is away. What their handlers do is none of its business.
    """

    def __init__(
        self,
        opening: oona_pb2.SubscribeOpen,
        member: GroupMember,
        connections: Any,
        retry: RetryPolicy,
        times: Times,
        teller: Teller,
        breaker: CircuitBreaker,
    ) -> None:
        self._member = member
        self._connections = connections
        self._retry = retry
        self._times = times
        self._teller = teller
        self._breaker = breaker
        self.streams = streams_for(opening.message_types, opening.streams)
        types, window = frozenset(opening.message_types), opening.max_in_flight
        arguments = (types, window, self._hold, self._put, teller, times.claim_idle_ms)
        self._emergency = Lane(member, [EMERGENCY], *arguments)
        self._others = Lane(member, [name for name in self.streams if name != EMERGENCY], *arguments)
        self._out: asyncio.PriorityQueue[tuple[bool, int, Taken | None]] = asyncio.PriorityQueue()
        self._order = count()
        self._held: dict[str, Held] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._given_back = asyncio.Event()
        self._acks: list[Place] = []
        self._acked = asyncio.Event()

    async def open(self) -> None:
        """Join the group.

        Raises
        ------
        UnavailableError
            If Redis does not answer.
        """
        with self._breaker.guard(lambda error: isinstance(error, UnavailableError)):
            await self._member.join(self.streams)
        self._tasks = [asyncio.create_task(self._emergency.run(self._connections()), name="emergency lane")]
        if len(self.streams) > 1:
            run = self._others.run(self._connections(), self._emergency.empty)
            self._tasks.append(asyncio.create_task(run, name="lane"))
        self._tasks.append(asyncio.create_task(self._stay_alive(), name="keep alive"))
        self._tasks.append(asyncio.create_task(self._bring_back(), name="bring back"))
        self._tasks.append(asyncio.create_task(self._acknowledge(), name="acknowledge"))
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def deliveries(self) -> AsyncIterator[oona_pb2.Delivery]:
        """Yield deliveries.

        Raises
        ------
        UnavailableError
            If Redis goes away.
        """
        while True:
            _, _, taken = await self._out.get()
            if taken is None:
                self._raise_cause()
                return
            delivery = await self._delivery(taken)
            if delivery is not None:
                yield delivery

    def ack(self, delivery_ids: Sequence[str]) -> None:
        """Acknowledge deliveries, those of an earlier connection included."""
        self._acks += [Place.parse(delivery_id) for delivery_id in delivery_ids]
        self._acked.set()

    def end(self) -> None:
        """Let `deliveries` end; nothing has gone wrong."""
        self._out.put_nowait((False, -1, None))

    async def nack(self, delivery_id: str, reason: str, *, permanent: bool) -> None:
        """Bring a delivery back later, or bury it."""
        place = Place.parse(delivery_id)
        why = reason[:MAX_REASON_CHARS] or "The consumer gave no reason."
        became = await self._member.give_back(place, why, permanent=permanent)
        self._teller.given_back(became, place.logical, why, self._member.group)
        self._given_back.set()
        self._let_go(delivery_id)

    async def close(self) -> None:
        """End the lanes and let others have what was not answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._flush_acks()
            await self._member.release(self.streams)
        except UnavailableError as error:
            # Then it is claimed after the usual time of silence.
            _log.info("deliveries were not released", group=self._member.group, reason=error.message)

    def _hold(self, taken: Taken) -> None:
        lane = self._lane(taken)
        self._held[str(taken.place)] = Held(taken.place, lane, asyncio.get_running_loop().time())

    def _put(self, taken: Taken) -> None:
        lane, held = self._lane(taken), self._held.get(str(taken.place))
        if held is None or held.delivered:
            # It was answered over an earlier connection, or taken twice; the room it was given is free again.
            lane.room.release()
            return
        held.delivered = True
        self._out.put_nowait((lane is not self._emergency, next(self._order), taken))

    def _lane(self, taken: Taken) -> Lane:
        return self._emergency if taken.place.logical == EMERGENCY else self._others

    def _let_go(self, delivery_id: str) -> None:
        held = self._held.pop(delivery_id, None)
        if held is not None and held.delivered:
            held.lane.room.release()

    async def _delivery(self, taken: Taken) -> oona_pb2.Delivery | None:
        delivery_id, logical = str(taken.place), taken.place.logical
        if taken.deliveries > self._retry.max_deliveries:
            why = f"It was delivered {taken.deliveries - 1} times without an answer; it may kill its consumers."
            await self.nack(delivery_id, why, permanent=True)
            return None
        self._teller.instruments.count("oona.deliveries_total", stream=logical)
        return oona_pb2.Delivery(
            delivery_id=delivery_id,
            stream=logical,
            attempt=taken.entry.failures + taken.deliveries,
            envelope=taken.entry.envelope,
            claimed=taken.claimed,
        )

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(self._times.claim_idle_ms / 3000)
            oldest = asyncio.get_running_loop().time() - self._times.delivery_timeout_s
            await self._member.keep_alive([held.place for held in self._held.values() if held.since_s >= oldest])

    async def _acknowledge(self) -> None:
        """Acknowledge in one stroke what was answered meanwhile."""
        while True:
            await self._acked.wait()
            await self._flush_acks()

    async def _flush_acks(self) -> None:
        places, self._acks = self._acks, []
        self._acked.clear()
        if not places:
            return
        await self._member.ack(places)
        for place in places:
            self._teller.instruments.count("oona.acks_total", stream=place.logical)
            self._let_go(str(place))

    async def _bring_back(self) -> None:
        """Make failed messages readable when their time has come, whoever of the group has given them back."""
        while True:
            self._given_back.clear()
            nearest_s = min(LOOK_FOR_RETRIES_S, await self._member.promote(self.streams))
            try:
                async with asyncio.timeout(max(0.001, nearest_s)):
                    await self._given_back.wait()
            except TimeoutError:
                continue

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        permit = self._breaker.try_acquire()
        if permit is not None:
            permit.failure(str(task.exception()))
        self.end()

    def _raise_cause(self) -> None:
        for task in self._tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            if isinstance(error, EsperError):
                raise error
            if error is not None:
                raise UnavailableError(f"The subscription broke: {error}. Open it again.") from error


def checked(opening: oona_pb2.SubscribeOpen) -> oona_pb2.SubscribeOpen:
    """Return the opening if it can be served.

    Raises
    ------
    ValidationError, ContractError
        Naming the field that is wrong.
    """
    for field in ("group", "consumer"):
        value: str = getattr(opening, field)
        if not 0 < len(value) <= MAX_NAME_CHARS or not value.isprintable() or "@" in value:
            raise ValidationError(
                f"{field} is {value[:MAX_NAME_CHARS]!r}.", field=field, allowed=f"1 to {MAX_NAME_CHARS} letters, no @"
            )
    if not 1 <= opening.max_in_flight <= MAX_WINDOW:
        raise ValidationError(
            f"max_in_flight is {opening.max_in_flight}.", field="max_in_flight", allowed=f"1 to {MAX_WINDOW}"
        )
    for message_type in opening.message_types:
        payload_class(message_type)
    streams_for(opening.message_types, opening.streams)
    return opening


def group_of(opening: oona_pb2.SubscribeOpen) -> str:
    """Return the group's name in Redis."""
    return group_key(opening.group, opening.message_types)
