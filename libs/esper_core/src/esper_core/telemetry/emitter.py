"""The one telemetry emitter of a process: any thread records, one task publishes.

Recording costs microseconds and never waits. The task sends batches every `flush_interval_s`, and CRITICAL events at
once. A packet that cannot be published is kept and tried again within the bounds; what the bounds cost is counted and
told as `telemetry_dropped` and `telemetry_suppressed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import groupby
from typing import Final

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.guard import DependencyViolation, require_id
from esper_core.logs import get_logger
from esper_core.telemetry.buffer import Item, TelemetryBuffer
from esper_core.telemetry.builder import Health, Level, TelemetryBuilder, make_event
from esper_core.telemetry.catalog import CATALOG

Publish = Callable[[leyline.TelemetryPacket], Awaitable[object]]

MAX_ITEMS_PER_PACKET: Final = 128


class TelemetryEmitter:
    """Records from any thread; publishes from the loop that runs `run`.

    Parameters
    ----------
    source : str
        Service that sends.
    publish : callable
        Coroutine function that hands one packet to the bus; an `EsperError` from it means "try again later".
    shared : Mapping[str, str], optional
        Attributes added to every point and event.
    flush_interval_s : float
        Longest time that a record below CRITICAL waits.
    capacity : int
        Most records that wait.
    events_per_min : int
        Events of one name per minute; CRITICAL ones are not limited.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        source: str,
        publish: Publish,
        *,
        shared: Mapping[str, str] | None = None,
        flush_interval_s: float = 1.0,
        capacity: int = 8192,
        events_per_min: int = 120,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._source = require_id("source", source)
        self._publish = publish
        self._shared = dict(shared or {})
        self._interval_s = flush_interval_s
        self._clock = clock
        self._buffer = TelemetryBuffer(capacity=capacity, events_per_min=events_per_min, clock=clock)
        self._health: tuple[Health, str, dict[str, str]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._unknown: set[str] = set()
        self._log = get_logger("telemetry")

    @property
    def waiting(self) -> int:
        """Records that wait."""
        return len(self._buffer)

    @property
    def dropped_total(self) -> int:
        """Records lost to the bounds since start."""
        return self._buffer.dropped_total

    def count(self, name: str, amount: float = 1.0, *, run_id: str = "", **attributes: object) -> None:
        """Raise a counter; its point carries the total since start."""
        self._notice(name)
        self._buffer.add_count(name, amount, {**self._shared, **attributes}, run_id)

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        """Record a gauge; the latest value of a batch is sent."""
        self._notice(name)
        self._buffer.set_gauge(name, value, {**self._shared, **attributes}, run_id)

    def observe(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        """Record one observation of a histogram."""
        self._notice(name)
        self._buffer.add_observation(name, value, {**self._shared, **attributes}, run_id)

    def event(self, name: str, level: Level, description: str, *, run_id: str = "", **attributes: object) -> None:
        """Record an event; a CRITICAL one is published at once.

        Raises
        ------
        ContractError
            If the level is UNSPECIFIED.
        """
        event = make_event(name, level, description, {**self._shared, **attributes}, self._clock)
        if self._buffer.add_event(event, run_id):
            self._wake_publisher()

    def health(self, status: Health, summary: str, indicators: Mapping[str, str] | None = None) -> None:
        """Say how the service sees itself; sent with the next batch."""
        self._health = (status, summary, dict(indicators or {}))

    def dependency_violated(self, violation: DependencyViolation) -> None:
        """Record a guard's violation as CRITICAL; hand this method to the guard as its sink."""
        self.count("esper.dependency_violations_total", dependency=violation.dependency)
        self.event(
            "dependency_violation", leyline.TELEMETRY_LEVEL_CRITICAL, violation.description, **violation.attributes
        )

    def breaker_moved(self, transition: Transition) -> None:
        """Record a breaker's transition; hand this method to the breaker as `on_transition`."""
        opened = transition.to_state == leyline.CIRCUIT_STATE_OPEN
        level = leyline.TELEMETRY_LEVEL_ERROR if opened else leyline.TELEMETRY_LEVEL_INFO
        states = [
            leyline.CircuitState.Name(state).removeprefix("CIRCUIT_STATE_")
            for state in (transition.from_state, transition.to_state)
        ]
        self.count("esper.breaker.transitions_total", breaker=transition.breaker, to_state=states[1])
        self.gauge("esper.breaker.state", float(transition.to_state), breaker=transition.breaker)
        sentence = f"Breaker {transition.breaker} went from {states[0]} to {states[1]}: {transition.reason}"
        self.event(
            "breaker_transition", level, sentence, breaker=transition.breaker, from_state=states[0], to_state=states[1]
        )

    async def run(self) -> None:
        """Publish until cancelled; `close` afterwards makes the last try."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                await self._pause()
                await self.flush()
        finally:
            self._loop = None

    async def flush(self) -> bool:
        """Publish everything that waits; tell whether all of it went out."""
        async with self._flushing:
            self._wake.clear()
            self._tell_losses()
            items = sorted(self._buffer.take(), key=_group, reverse=True)
            sent = 0
            try:
                for batch in _batches(items):
                    if not await self._send(batch, first=sent == 0):
                        return False
                    sent += len(batch)
            finally:
                self._buffer.put_back(items[sent:])
            return bool(items) or await self._send_health_alone()

    async def close(self, timeout_s: float = 2.0) -> bool:
        """Make one bounded last try; tell whether everything went out."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.flush()
        except TimeoutError:
            self._log.warning("telemetry_left_behind", records=self.waiting, timeout_s=timeout_s)
            return False

    async def _send(self, batch: list[Item], *, first: bool) -> bool:
        builder = TelemetryBuilder(self._source, run_id=batch[0].run_id, clock=self._clock)
        builder.add(*(item.part for item in batch))
        if first and self._health is not None:
            builder.health(*self._health)
        return await self._deliver(builder.build(batch[0].priority))

    async def _send_health_alone(self) -> bool:
        if self._health is None:
            return True
        builder = TelemetryBuilder(self._source, clock=self._clock).health(*self._health)
        return await self._deliver(builder.build(leyline.MESSAGE_PRIORITY_NORMAL))

    async def _deliver(self, packet: leyline.TelemetryPacket) -> bool:
        try:
            await self._publish(packet)
        except EsperError as error:
            self.count("telemetry.publish_failures_total")
            self._log.warning("telemetry_not_published", code=error.code, reason=error.message, waiting=self.waiting)
            return False
        return True

    def _tell_losses(self) -> None:
        losses = self._buffer.take_losses()
        if losses.dropped:
            self.count("telemetry.records_dropped_total", losses.dropped)
            sentence = f"{losses.dropped} telemetry records were dropped because the buffer was full."
            self.event("telemetry_dropped", leyline.TELEMETRY_LEVEL_ERROR, sentence, dropped=losses.dropped)
        for name, count in losses.suppressed.items():
            self.count("telemetry.events_suppressed_total", count, event=name)
            sentence = f"{count} events {name} were held back by the rate limit."
            self.event("telemetry_suppressed", leyline.TELEMETRY_LEVEL_WARNING, sentence, event=name, held_back=count)

    def _notice(self, name: str) -> None:
        """Tell once about a metric that no list defines; the point itself still travels."""
        if name in CATALOG or name in self._unknown:
            return
        self._unknown.add(name)
        self._log.warning("metric_not_in_catalogue", metric=name)
        self.event(
            "metric_not_in_catalogue", leyline.TELEMETRY_LEVEL_WARNING, f"No metric list defines {name}.", metric=name
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _wake_publisher(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake.set)


def _group(item: Item) -> tuple[int, str]:
    return item.priority, item.run_id


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    """Split into packets of one priority and one run each."""
    for _, members in groupby(items, key=_group):
        group = list(members)
        for start in range(0, len(group), MAX_ITEMS_PER_PACKET):
            yield group[start : start + MAX_ITEMS_PER_PACKET]
