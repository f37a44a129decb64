"""What goes on in the background: measuring, trimming, emptying the spill journal, watching Redis."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.errors import UnavailableError
from esper_core.logs import get_logger
from oona.admission import Admission
from oona.backlog import Backlogs, StreamState
from oona.layout import Layout
from oona.redis_link import RedisLink, redis_errors
from oona.settings import OonaSettings
from oona.spill import Spill
from oona.store import Store
from oona.telling import Teller

MEASURE_EVERY_S: Final = 1.0
TRIM_EVERY_S: Final = 30.0
DRAIN_EVERY_S: Final = 0.5
CONSUMER_FORGOTTEN_MS: Final = 24 * 3600 * 1000
_log: Final = get_logger("oona.upkeep")


class Upkeep:
    """Background work of the broker."""

    def __init__(
        self,
        link: RedisLink,
        layout: Layout,
        settings: OonaSettings,
        admission: Admission,
        store: Store,
        spill: Spill,
        teller: Teller,
        clock: Clock,
    ) -> None:
        self._link = link
        self._redis: Any = link.pool
        self._layout = layout
        self._settings = settings
        self._admission = admission
        self._store = store
        self._spill = spill
        self._teller = teller
        self._clock = clock
        self._backlogs = Backlogs(link.pool, layout)
        self._up: bool | None = None

    async def measure_for_ever(self) -> None:
        """Measure backlogs and show them, every second."""
        while True:
            await self._unless_away(self.measure)
            await asyncio.sleep(MEASURE_EVERY_S)

    async def trim_for_ever(self) -> None:
        """Trim streams, every half minute."""
        while True:
            await self._unless_away(self.trim)
            await asyncio.sleep(TRIM_EVERY_S)

    async def drain_for_ever(self) -> None:
        """Empty the spill journal as soon as Redis takes messages."""
        while True:
            if self._spill.waiting:
                await self._unless_away(self.drain)
            self._teller.instruments.gauge("oona.spill.records", self._spill.waiting)
            await asyncio.sleep(DRAIN_EVERY_S)

    async def probe(self) -> None:
        """Answer for Redis in the health check.

        Raises
        ------
        UnavailableError
            If it does not answer.
        """
        try:
            await self._link.ping()
        except UnavailableError:
            self._note(up=False)
            raise
        if self._note(up=True):
            await self._check_configuration()

    async def measure(self) -> None:
        """Measure once."""
        for state in await self._backlogs.streams():
            self._show(state)
            gate = self._admission.gates[state.logical]
            backlog = state.backlog(self._settings.abandoned_group_s)
            if gate.observe(backlog, self._clock.monotonic()):
                self._teller.pressure(state.logical, gate.level, backlog)
            self._teller.instruments.gauge("oona.backpressure.active", float(gate.active), stream=state.logical)
        self._teller.instruments.gauge("oona.dead_letter.depth", await self._backlogs.dead_letters())

    async def drain(self) -> None:
        """Publish what waits in the journal."""
        count = await self._spill.drain(self._store.publish)
        sentence = f"{count} CRITICAL messages that had waited in the journal are on their streams."
        self._teller.event("spill_drained", leyline.TELEMETRY_LEVEL_INFO, sentence, count=count)

    async def trim(self) -> None:
        """Trim what is old and no longer needed; beyond the longest length also what is needed, and tell."""
        for state in await self._backlogs.streams():
            await self._trim_stream(state)
            await self._forget_consumers(state)
        with redis_errors():
            await self._redis.xtrim(
                self._layout.dead_letters, maxlen=self._settings.deadletter_max_length, approximate=True
            )

    async def _trim_stream(self, state: StreamState) -> None:
        with redis_errors():
            oldest_needed = await self._oldest_needed(state)
            await self._redis.xtrim(state.name, minid=oldest_needed, approximate=True)
            if state.length > self._settings.stream_max_length:
                await self._cut(state)

    async def _cut(self, state: StreamState) -> None:
        most = self._settings.stream_max_length
        unread = max(0, state.backlog(self._settings.abandoned_group_s) - most)
        await self._redis.xtrim(state.name, maxlen=most, approximate=True)
        if unread:
            self._teller.lost_by_trim(state.logical, unread)

    async def _oldest_needed(self, state: StreamState) -> str:
        """Return the id below which every living group has acknowledged everything and the age is over."""
        bound_ms = int((time.time() - self._settings.retention_s) * 1000)
        oldest = (bound_ms, 0)
        for group in state.groups:
            if group.idle_s >= self._settings.abandoned_group_s and group.idle_s >= self._settings.retention_s:
                continue
            pending = await self._redis.xpending(state.name, group.name)
            first: bytes | None = pending["min"]
            oldest = min(oldest, _parts(first.decode() if first else group.last_id))
        return f"{oldest[0]}-{oldest[1]}"

    async def _forget_consumers(self, state: StreamState) -> None:
        """Remove consumers that are long gone and hold nothing; one that holds something would lose it."""
        for group in state.groups:
            with redis_errors():
                for consumer in await self._redis.xinfo_consumers(state.name, group.name):
                    if consumer["pending"] == 0 and consumer["idle"] > CONSUMER_FORGOTTEN_MS:
                        await self._redis.xgroup_delconsumer(state.name, group.name, consumer["name"])

    def _show(self, state: StreamState) -> None:
        for group in state.groups:
            labels = {"stream": state.logical, "group": group.name}
            self._teller.instruments.gauge("oona.queue.depth", group.backlog, **labels)
            self._teller.instruments.gauge("oona.queue.pending", group.pending, **labels)

    def _note(self, *, up: bool) -> bool:
        """Keep and tell whether Redis answers; returns whether that is new."""
        new = self._up is not up
        self._up = up
        self._teller.instruments.gauge("oona.redis.up", float(up))
        if new and not up:
            self._teller.event("redis_away", leyline.TELEMETRY_LEVEL_ERROR, "Redis does not answer.")
        return new

    async def _check_configuration(self) -> None:
        """Warn once per connection about a Redis that may forget what was acknowledged."""
        wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        try:
            with redis_errors():
                found = await self._redis.config_get(*wanted)
        except Exception as error:
            # Managed services forbid CONFIG; then nobody can check, and the operator is told that.
            _log.warning("the configuration of Redis cannot be read", reason=str(error))
            return
        for name, value in wanted.items():
            if found.get(name) != value:
                sentence = (
                    f"Redis runs with {name} {found.get(name)}; acknowledged messages are only safe with {value}."
                )
                self._teller.event("redis_not_durable", leyline.TELEMETRY_LEVEL_WARNING, sentence, option=name)

    async def _unless_away(self, work: Any) -> None:
        try:
            await work()
        except UnavailableError as error:
            _log.debug("upkeep waits for Redis", reason=error.message)


def _parts(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
