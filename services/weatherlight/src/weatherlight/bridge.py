"""The way from training processes of this host that needs no network: shared memory, looked at many times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeAlias

from esper_core import leyline
from esper_core.bridge import DeadlineNotice, Gone, Record, Segment, segments
from esper_core.clocks import Clock
from esper_core.errors import EsperError, UnavailableError
from esper_core.logs import get_logger
from esper_core.telemetry import TelemetryEmitter
from weatherlight.emergencies import Emergency
from weatherlight.orchestrator import Orchestrator
from weatherlight.signals import SignalDesk
from weatherlight.span import Span

Action: TypeAlias = Callable[[], Awaitable[None]]
ATTEMPTS: Final = 5
RETRY_S: Final = 0.5
GRACE_S: Final = 2.0
"""A worker that only just misses its deadline says so itself, and Tolaria looks after half of that."""
_KINDS: Final = {leyline.EmergencySignal: "emergency", DeadlineNotice: "deadline", Gone: "gone"}
_log = get_logger("bridge")


class BridgeWatch:
    """Acts on what comes over the bridge, and cleans up behind writers that are no more. Lives on one event loop.

    Parameters
    ----------
    folder : Path
        The bridge.
    desk : SignalDesk
        Verifies signals and acts on them, whichever way they came.
    orchestrator : Orchestrator
        Takes what a worker that hangs cannot raise itself.
    emitter : TelemetryEmitter
        Told about everything.
    clock : Clock
        Monotonic clock of this host.
    interval_s : float
        Pause between two looks.
    """

    def __init__(
        self,
        folder: Path,
        desk: SignalDesk,
        orchestrator: Orchestrator,
        emitter: TelemetryEmitter,
        clock: Clock,
        *,
        interval_s: float,
    ) -> None:
        self._folder = folder
        self._desk = desk
        self._orchestrator = orchestrator
        self._emitter = emitter
        self._clock = clock
        self._interval_s = interval_s
        self._spans: dict[Path, Span] = {}
        self._given_up: set[Path] = set()
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                self.look()
                await asyncio.sleep(self._interval_s)
        finally:
            await self.close()

    async def close(self) -> None:
        """End what is under way; it is taken up again by the next start."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for span in self._spans.values():
            span.close()
        self._spans.clear()

    def look(self) -> None:
        """Look once at every segment; what is wrong with one keeps no other from being read."""
        try:
            found = segments(self._folder)
        except EsperError as error:
            _log.error("the bridge cannot be read", code=error.code, reason=error.message)
            return
        for segment in found:
            try:
                self._look_at(segment)
            except EsperError as error:
                self._give_up(segment, error)
        self._emitter.gauge("weatherlight.bridge.segments", len(self._spans))

    def _look_at(self, segment: Segment) -> None:
        # Before the reading: what a writer says last must be read before it counts as dead.
        alive = segment.writer.is_alive()
        if segment.path in self._given_up:
            if not alive:
                self._given_up.discard(segment.path)
                Span.remove(segment)
            return
        span = self._spans.get(segment.path)
        if span is None:
            span = self._spans[segment.path] = Span.of(segment)
        self._read(span)
        if span.deadline_missed(self._clock.monotonic(), GRACE_S) and alive:
            self._start(self._raise_missed(span.segment.run_id, span.missed()))
        if (span.gone or not alive) and not span.busy:
            self._clean(span)

    def _read(self, span: Span) -> None:
        crossed = span.take()
        if crossed.lost:
            self._emitter.count("weatherlight.bridge.lost_total", crossed.lost)
            lost = f"{crossed.lost} records of run {span.segment.run_id} were overwritten before they were read."
            self._emitter.event("bridge_overrun", leyline.TELEMETRY_LEVEL_CRITICAL, lost)
        for number, record in crossed.records:
            self._emitter.count("weatherlight.bridge.records_total", kind=_KINDS[type(record)])
            self._take(span, number, record)

    def _take(self, span: Span, number: int, record: Record) -> None:
        if isinstance(record, leyline.EmergencySignal):
            span.open.add(number)
            self._start(self._act(span, number, record))
        elif isinstance(record, DeadlineNotice):
            span.deadline = record
        else:
            span.gone = True

    async def _act(self, span: Span, number: int, signal: leyline.EmergencySignal) -> None:
        await self._until_done(signal.signal_id, lambda: self._desk.act(signal))
        try:
            span.done(number)
        except EsperError as error:
            _log.error("a restart will see this signal again", signal_id=signal.signal_id, reason=error.message)

    async def _raise_missed(self, run_id: str, number: int) -> None:
        """Raise what Tolaria raises as well where it can, under the same id."""
        reason = "A rollback missed its deadline and its worker said nothing."
        signal_id = f"deadline-{run_id}-{number}"
        emergency = Emergency(signal_id, leyline.EMERGENCY_LEVEL_HALT, reason, "weatherlight", run_id)
        await self._until_done(signal_id, lambda: self._raised(emergency))

    async def _raised(self, emergency: Emergency) -> None:
        routing = await self._orchestrator.raise_here(emergency)
        if not routing.complete:
            raise UnavailableError(f"The emergency was not routed: {'; '.join(routing.actions)}.")

    async def _until_done(self, signal_id: str, action: Action) -> None:
        """Try some times, as the bus would deliver it, then give up and say so."""
        for attempt in range(ATTEMPTS):
            try:
                await action()
            except EsperError as error:
                if not error.retryable or attempt == ATTEMPTS - 1:
                    why = f"The signal {signal_id} came over the bridge and was given up: {error.message}"
                    self._emitter.event("emergency_unrouted", leyline.TELEMETRY_LEVEL_CRITICAL, why, code=error.code)
                    _log.error("an emergency was given up", signal_id=signal_id, code=error.code, reason=error.message)
                    return
                await asyncio.sleep(RETRY_S * 2**attempt)
            else:
                return

    def _clean(self, span: Span) -> None:
        segment = span.segment
        if not span.gone:
            self._emitter.count("weatherlight.bridge.dead_writers_total")
            died = f"The worker of run {segment.run_id} (process {segment.writer.pid}) died without a word."
            self._emitter.event("bridge_writer_died", leyline.TELEMETRY_LEVEL_ERROR, died, run_id=segment.run_id)
            _log.error("a writer of the bridge died", run_id=segment.run_id, pid=segment.writer.pid)
        del self._spans[segment.path]
        span.close()
        Span.remove(segment)

    def _give_up(self, segment: Segment, error: EsperError) -> None:
        self._emitter.count("weatherlight.bridge.unreadable_total")
        self._emitter.event("bridge_unreadable", leyline.TELEMETRY_LEVEL_ERROR, error.message, run_id=segment.run_id)
        _log.error("a segment of the bridge was given up", run_id=segment.run_id, code=error.code, reason=error.message)
        self._given_up.add(segment.path)
        span = self._spans.pop(segment.path, None)
        if span is not None:
            span.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
