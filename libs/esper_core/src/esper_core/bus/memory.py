"""A broker in memory with Oona's semantics, for unit tests: groups, pending, claims, retries, dead letters, priorities.

It has no back-pressure and no rate limit, and forgets everything at the end of the process.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from esper_core import leyline
from esper_core.bus.envelope import EnvelopeVerifier
from esper_core.bus.memory_group import Entry, Group, Pending
from esper_core.bus.retry import DEFAULT_RETRY, RetryPolicy
from esper_core.bus.routing import EMERGENCY, group_key, stream_of, streams_for
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import EsperError, StateConflictError, UnavailableError
from esper_core.pb.esper.oona.v1 import oona_pb2
from esper_core.security import Keyring


class InMemoryBroker:
    """The broker; several `InMemoryBus` may share one.

    Parameters
    ----------
    keyring : Keyring
        Verifies what is published.
    retry : RetryPolicy
        Rules of redelivery.
    clock : Clock
        Source of time.
    """

    def __init__(self, keyring: Keyring, *, retry: RetryPolicy = DEFAULT_RETRY, clock: Clock = SYSTEM_CLOCK) -> None:
        self._verifier = EnvelopeVerifier(keyring, clock=clock)
        self.retry = retry
        self._clock = clock
        self._streams: dict[str, list[Entry]] = defaultdict(list)
        self._groups: dict[tuple[str, str], Group] = {}
        self._stored: dict[str, str] = {}
        self._letters: dict[str, oona_pb2.DeadLetter] = {}
        self._ids = count(1)
        self._changed = asyncio.Event()
        self.sessions: list[InMemorySession] = []
        self.available = True

    def go_away(self) -> None:
        """Be away as a killed Oona is: end the sessions, take nothing."""
        self.available = False
        self._notify()

    def come_back(self) -> None:
        """Answer again."""
        self.available = True

    def require_available(self) -> None:
        """Raise UnavailableError while the broker is away."""
        if not self.available:
            raise UnavailableError("The in-memory broker is away.")

    def messages(self, stream: str) -> list[leyline.BusEnvelope]:
        """Return everything that was published to a logical stream."""
        return [entry.envelope for entry in self._streams[stream]]

    async def publish(
        self, envelopes: Sequence[leyline.BusEnvelope], timeout_s: float
    ) -> Sequence[oona_pb2.PublishReceipt]:
        """Verify and store envelopes."""
        self.require_available()
        receipts = [self._publish(envelope) for envelope in envelopes]
        self._notify()
        return receipts

    def _publish(self, given: leyline.BusEnvelope) -> oona_pb2.PublishReceipt:
        envelope = leyline.BusEnvelope.FromString(given.SerializeToString())
        stream = stream_of(envelope.message_type, envelope.priority)
        try:
            self._verifier.verify(envelope)
        except EsperError as error:
            self.bury(Entry(next(self._ids), envelope), stream, "", f"Refused at the entrance: {error.message}")
            return oona_pb2.PublishReceipt(message_id=envelope.message_id, error_code=error.code, message=error.message)
        if envelope.message_id not in self._stored:
            self._stored[envelope.message_id] = stream
            self._streams[stream].append(Entry(next(self._ids), envelope))
        return oona_pb2.PublishReceipt(message_id=envelope.message_id, accepted=True, stream=stream)

    @asynccontextmanager
    async def subscribe(self, opening: oona_pb2.SubscribeOpen) -> AsyncIterator[InMemorySession]:
        """Open a subscription."""
        self.require_available()
        key = group_key(opening.group, opening.message_types)
        types = frozenset(opening.message_types)
        names = streams_for(opening.message_types, opening.streams)
        groups = {name: self._groups.setdefault((name, key), Group(types)) for name in names}
        session = InMemorySession(self, key, groups, max(1, opening.max_in_flight))
        self.sessions.append(session)
        try:
            yield session
        finally:
            self.sessions.remove(session)
            self._notify()

    async def dead_letters(self, limit: int, after: str) -> Sequence[oona_pb2.DeadLetter]:
        """Tell what could not be handled, the oldest first."""
        letters = [letter for key, letter in self._letters.items() if not after or int(key) > int(after)]
        return letters[: limit or 100]

    async def redrive(self, entry_ids: Sequence[str]) -> oona_pb2.RedriveResponse:
        """Send dead letters back to the groups that failed."""
        wanted = list(entry_ids) or [key for key, letter in self._letters.items() if letter.group]
        missing = [key for key in wanted if key not in self._letters]
        found = [self._letters[key] for key in wanted if key in self._letters]
        if any(not letter.group for letter in found):
            raise StateConflictError("A message refused at the entrance cannot be redriven; publish it again.")
        for letter in found:
            group = self._groups[letter.stream, letter.group]
            group.again.append(Entry(next(self._ids), letter.envelope))
            del self._letters[letter.entry_id]
        self._notify()
        return oona_pb2.RedriveResponse(redriven=len(found), missing=missing)

    async def close(self) -> None:
        """Keep everything: others may share the broker."""

    def bury(self, entry: Entry, stream: str, group: str, reason: str) -> None:
        """Put a message among the dead letters."""
        key = str(next(self._ids))
        self._letters[key] = oona_pb2.DeadLetter(
            entry_id=key,
            stream=stream,
            group=group,
            attempts=entry.failures,
            reason=reason,
            failed_at=to_timestamp(self._clock.wall()),
            envelope=entry.envelope,
        )

    def give_back(self, stream: str, key: str, pending: Pending, reason: str, *, permanent: bool) -> None:
        """Bring a failed delivery back later, or bury it."""
        entry = pending.entry
        failed = Entry(next(self._ids), entry.envelope, entry.failures + 1)
        if permanent or failed.failures >= self.retry.max_attempts:
            self.bury(failed, stream, key, reason)
        else:
            due = self._clock.monotonic() + self.retry.delay_s(failed.failures)
            heapq.heappush(self._groups[stream, key].due, (due, failed))
        self._notify()

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    def entries(self, stream: str) -> list[Entry]:
        """Return the entries of a stream."""
        return self._streams[stream]

    def new_delivery_id(self) -> str:
        """Mint an id."""
        return str(next(self._ids))

    def notify(self) -> None:
        """Wake the sessions."""
        self._notify()

    async def changed(self, longest_s: float) -> None:
        """Wait until something happens, at most for a time."""
        changed = self._changed
        try:
            async with asyncio.timeout(longest_s):
                await changed.wait()
        except TimeoutError:
            return

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class InMemorySession:
    """One open subscription of the in-memory broker."""

    def __init__(self, broker: InMemoryBroker, key: str, groups: dict[str, Group], window: int) -> None:
        self._broker = broker
        self._key = key
        self._groups = groups
        self._window = window

    async def deliveries(self) -> AsyncIterator[oona_pb2.Delivery]:
        """Yield deliveries, the emergency stream first."""
        while True:
            self._broker.require_available()
            delivery = self._next()
            if delivery is None:
                await self._broker.changed(self._nearest_s())
            else:
                yield delivery

    async def ack(self, delivery_id: str) -> None:
        """Forget a delivery."""
        self._broker.require_available()
        for group in self._groups.values():
            group.pending.pop(delivery_id, None)
        self._broker.notify()

    async def nack(self, delivery_id: str, reason: str, *, permanent: bool) -> None:
        """Give a delivery back."""
        self._broker.require_available()
        for stream, group in self._groups.items():
            pending = group.pending.get(delivery_id)
            if pending is not None and pending.session is self:
                del group.pending[delivery_id]
                self._broker.give_back(stream, self._key, pending, reason, permanent=permanent)

    def _nearest_s(self) -> float:
        moments = [due for group in self._groups.values() for due, _ in group.due]
        return max(0.001, min(moments) - self._broker.now()) if moments else 1.0

    def _next(self) -> oona_pb2.Delivery | None:
        for lane in ([EMERGENCY], [name for name in self._groups if name != EMERGENCY]):
            if sum(self._open(name) for name in lane) >= self._window:
                return None
            for name in lane:
                delivery = self._next_of(name, self._groups[name])
                if delivery is not None:
                    return delivery
        return None

    def _open(self, stream: str) -> int:
        return sum(pending.session is self for pending in self._groups[stream].pending.values())

    def _next_of(self, stream: str, group: Group) -> oona_pb2.Delivery | None:
        for delivery_id, pending in list(group.pending.items()):
            if pending.session not in self._broker.sessions:
                claimed = self._claim(stream, group, delivery_id, pending)
                if claimed is not None:
                    return claimed
        group.promote(self._broker.now())
        entry = group.next_new(self._broker.entries(stream))
        if entry is None:
            return None
        delivery_id = self._broker.new_delivery_id()
        group.pending[delivery_id] = Pending(entry, self)
        return self._delivery(stream, delivery_id, group.pending[delivery_id], claimed=False)

    def _claim(self, stream: str, group: Group, delivery_id: str, pending: Pending) -> oona_pb2.Delivery | None:
        pending.session = self
        pending.deliveries += 1
        if pending.deliveries > self._broker.retry.max_deliveries:
            del group.pending[delivery_id]
            self._broker.bury(pending.entry, stream, self._key, "It was delivered too often without an answer.")
            return None
        return self._delivery(stream, delivery_id, pending, claimed=True)

    @staticmethod
    def _delivery(stream: str, delivery_id: str, pending: Pending, *, claimed: bool) -> oona_pb2.Delivery:
        return oona_pb2.Delivery(
            delivery_id=delivery_id,
            stream=stream,
            attempt=pending.entry.failures + pending.deliveries,
            envelope=pending.entry.envelope,
            claimed=claimed,
        )
