"""The bus as every service sees it: `publish` and `post` out, `consume` in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from esper_core import leyline
from esper_core.bus.consuming import Consumer
from esper_core.bus.envelope import EnvelopeSealer, EnvelopeVerifier
from esper_core.bus.link import Link
from esper_core.bus.outbox import Outbox, Receipt
from esper_core.bus.publishing import Pump
from esper_core.bus.received import Handler
from esper_core.bus.routing import payload_class, streams_for
from esper_core.bus.telling import EventSink, Teller
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import ResourceExhaustedError, UnavailableError, ValidationError
from esper_core.pb.esper.oona.v1 import oona_pb2
from esper_core.security import Keyring
from esper_core.telemetry import Instruments

DELIVERY_MAX_AGE_S = 7 * 24 * 3600.0


class Bus:
    """Publishes and consumes over a link. Use `BusClient` for Oona and `InMemoryBus` in unit tests.

    All calls belong to one event loop. Nothing connects before the first publication or subscription, and neither needs
    the broker to be there: publications wait in a bounded buffer, subscriptions are opened again with back-off.

    Parameters
    ----------
    link : Link
        The way to the broker.
    source : str
        Service that publishes; also the default name of its consumers.
    keyring : Keyring
        Signs what goes out and verifies what comes in.
    buffer : int
        Most messages that wait for the broker; CRITICAL ones have further room.
    instruments : Instruments, optional
        Where counters and gauges go.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        link: Link,
        source: str,
        keyring: Keyring,
        *,
        buffer: int = 4096,
        instruments: Instruments | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._link = link
        self._source = source
        self._sealer = EnvelopeSealer(source, keyring, clock=clock)
        self._verifier = EnvelopeVerifier(keyring, max_age_s=DELIVERY_MAX_AGE_S, clock=clock)
        self._teller = Teller(instruments)
        self._outbox = Outbox(buffer)
        self._pump = Pump(link, self._outbox, self._sealer, self._teller)
        self._pumping: asyncio.Task[None] | None = None

    def report_to(self, sink: EventSink) -> None:
        """Send events about the bus (`bus_away`, `bus_envelope_rejected`, …) to the process's emitter."""
        self._teller.sink = sink

    @property
    def waiting(self) -> int:
        """Messages that wait for the broker."""
        return len(self._outbox)

    @property
    def problem(self) -> str:
        """Why the broker takes no messages; empty while it does."""
        return self._pump.problem

    async def publish(
        self,
        message_type: int,
        payload: Message,
        priority: int,
        *,
        run_id: str = "",
        message_id: str = "",
        timeout_s: float = 10.0,
    ) -> Receipt:
        """Publish and wait until the broker has made the message durable.

        Parameters
        ----------
        message_type : BusMessageType
            What the payload is.
        payload : Message
            The message of that type.
        priority : MessagePriority
            Set here, carried unchanged to every consumer.
        run_id : str
            Run concerned; the payload's `training_run_id` by default.
        message_id : str
            Give the same id when repeating a publication whose outcome is unknown: the broker stores it once.
        timeout_s : float
            Longest wait; then the message is withdrawn from the buffer.

        Raises
        ------
        ContractError, ValidationError
            If type, priority or payload are wrong.
        ResourceExhaustedError
            If the buffer is full, or the broker refuses by rate limit or back-pressure; see `retry_after_s`.
        UnavailableError
            If the broker did not take it in time.
        CommandRejectedError, IntegrityError
            If the broker does not accept signature, times or digest.
        """
        envelope = self._sealer.compose(message_type, payload, priority, run_id=run_id, message_id=message_id)
        outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._buffer(envelope, outcome)
        try:
            async with asyncio.timeout(timeout_s):
                return await outcome
        except TimeoutError as error:
            raise UnavailableError(
                f"The bus did not take the message within {timeout_s:g} s. {self.problem or 'Oona did not answer.'} "
                "Publish it again with the same message_id.",
                details={"message_id": envelope.message_id},
            ) from error

    def post(
        self, message_type: int, payload: Message, priority: int, *, run_id: str = "", message_id: str = ""
    ) -> str:
        """Hand over a message without waiting; return its id. A later refusal is counted and told as an event.

        Raises
        ------
        ContractError, ValidationError
            If type, priority or payload are wrong.
        ResourceExhaustedError
            If the buffer is full.
        """
        envelope = self._sealer.compose(message_type, payload, priority, run_id=run_id, message_id=message_id)
        self._buffer(envelope, None)
        return envelope.message_id

    async def publish_telemetry(self, packet: leyline.TelemetryPacket) -> None:
        """Publish a telemetry packet with its own priority; the `publish` of a `TelemetryEmitter`."""
        await self.publish(
            leyline.BUS_MESSAGE_TYPE_TELEMETRY, packet, packet.priority, message_id=packet.packet_id, timeout_s=5.0
        )

    async def consume(
        self,
        message_types: Sequence[int],
        *,
        group: str,
        handler: Handler,
        consumer: str = "",
        streams: Iterable[str] = (),
        max_in_flight: int = 16,
        concurrency: int = 1,
    ) -> None:
        """Consume until cancelled; at least once, so the handler must bear a repetition.

        Parameters
        ----------
        message_types : Sequence of BusMessageType
            What the handler wants; empty means everything on `streams`.
        group : str
            Consumer group, by convention the service's name. Each group gets every message.
        handler : callable
            Coroutine function that gets a `Received`. Returning acknowledges; an exception gives the message back for a
            later retry; an `EsperError` that is not retryable sends it to the dead letters.
        consumer : str
            Name within the group, stable over restarts and unique among living consumers; the source by default.
        streams : Iterable of str
            Logical streams, where those that carry the types are not meant.
        max_in_flight : int
            Deliveries that may be unanswered, 1 to 1024; the emergency stream has as many of its own.
        concurrency : int
            Handlers that run at a time.

        Raises
        ------
        ValidationError
            If an argument is wrong.
        """
        for message_type in message_types:
            payload_class(message_type)
        if not group:
            raise ValidationError("group is empty; name the consumer group.", field="group")
        opening = oona_pb2.SubscribeOpen(
            group=group,
            consumer=consumer or self._source,
            message_types=[leyline.BusMessageType.ValueType(message_type) for message_type in message_types],
            max_in_flight=max_in_flight,
            streams=streams_for(message_types, streams) if streams else [],
        )
        await Consumer(self._link, opening, handler, self._verifier, self._teller, concurrency=concurrency).run()

    async def dead_letters(self, limit: int = 100, after: str = "") -> Sequence[oona_pb2.DeadLetter]:
        """Tell what could not be handled, the oldest first, from the entry after `after` on.

        Raises
        ------
        UnavailableError
            If the broker does not answer.
        """
        return await self._link.dead_letters(limit, after)

    async def redrive(self, *entry_ids: str) -> oona_pb2.RedriveResponse:
        """Send dead letters back to the groups that failed; none named means all.

        Raises
        ------
        StateConflictError
            If a named one was refused at the entrance and belongs to no group.
        UnavailableError
            If the broker does not answer.
        """
        return await self._link.redrive(entry_ids)

    async def drain(self, timeout_s: float = 2.0) -> bool:
        """Wait until nothing waits any more; tell whether that was reached."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._outbox) or self._pump.busy:
                    await self._pump.moved()
        except TimeoutError:
            return False
        return True

    async def close(self, drain_s: float = 2.0) -> None:
        """Try to empty the buffer for a bounded time, then let go; what is left is counted and told."""
        if self._pumping is not None:
            await self.drain(drain_s)
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
            self._pumping = None
        left = self._outbox.drop_all()
        if left:
            self._teller.count("bus.publish_total", len(left), outcome="abandoned")
            self._teller.event(
                "bus_messages_abandoned",
                leyline.TELEMETRY_LEVEL_ERROR,
                f"{len(left)} messages were still waiting for the bus at the end.",
                count=str(len(left)),
            )
        for item in left:
            if item.outcome is not None and not item.outcome.done():
                item.outcome.set_exception(UnavailableError("The bus client was closed before the message went out."))
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _buffer(self, envelope: leyline.BusEnvelope, outcome: asyncio.Future[Receipt] | None) -> None:
        try:
            self._outbox.put(envelope, outcome)
        except ResourceExhaustedError:
            self._teller.count("bus.publish_total", outcome="no_room")
            raise
        if self._pumping is None or self._pumping.done():
            self._pumping = asyncio.create_task(self._pump.run(), name="bus publisher")
