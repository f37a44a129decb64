"""The way to Oona: every run event and the worker's telemetry are published; without a bus the journal has it all."""

from __future__ import annotations

from collections import deque
from typing import Final

from esper_core import leyline
from esper_core.bus import Bus
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from esper_core.telemetry import TelemetryEmitter
from tolaria.mediator.wake import Wake
from tolaria.reporting.events import EventLog
from tolaria.reporting.metering import meter
from tolaria.safety.bridge import SignalMaker
from tolaria.safety.emergencies import raised_here

_WAITING: Final = 4096
_LOW: Final = frozenset({leyline.RUN_EVENT_KIND_PROGRESS})
_log = get_logger("mediator")


class OonaPart:
    """Publishes what the event log tells.

    Parameters
    ----------
    bus : Bus
        The bus; it buffers while Oona is away, within its bounds.
    events : EventLog
        Whose events are published.
    emitter : TelemetryEmitter
        Gets the metrics that follow from them.
    maker : SignalMaker
        Makes a signal of every emergency that the run itself raised.
    """

    name = "oona"

    def __init__(self, bus: Bus, events: EventLog, emitter: TelemetryEmitter, maker: SignalMaker) -> None:
        self._bus = bus
        self._maker = maker
        self._emitter = emitter
        self._wake = Wake()
        self._waiting: deque[leyline.RunEvent] = deque(maxlen=_WAITING)
        wake = self._wake.from_thread()

        def heard(event: leyline.RunEvent) -> None:
            self._waiting.append(event)
            wake()

        events.listen(heard)

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._post_all()
            await self._wake.wait()

    async def finish(self) -> None:
        """Publish the last events and give the bus a moment to take them."""
        self._post_all()
        await self._emitter.close()
        await self._bus.close()

    def _post_all(self) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            meter(self._emitter, event)
            priority = leyline.MESSAGE_PRIORITY_LOW if event.kind in _LOW else leyline.MESSAGE_PRIORITY_NORMAL
            try:
                self._signal(event)
                self._bus.post(leyline.BUS_MESSAGE_TYPE_RUN_EVENT, event, priority, message_id=event.event_id)
            except EsperError as error:
                self._emitter.count("telemetry.publish_failures_total")
                _log.warning("an event was not published", sequence=event.sequence, code=error.code)

    def _signal(self, event: leyline.RunEvent) -> None:
        """Raise on the bus what the run itself raised; what others raised they have told themselves."""
        raised = raised_here(event.emergency) if event.kind == leyline.RUN_EVENT_KIND_EMERGENCY else None
        if raised is not None:
            self._bus.post(
                leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL,
                self._maker.signal(raised),
                leyline.MESSAGE_PRIORITY_CRITICAL,
                message_id=raised.signal_id,
            )


class TelemetryPart:
    """Runs the emitter of the process."""

    name = "telemetry"

    def __init__(self, emitter: TelemetryEmitter) -> None:
        self._emitter = emitter

    async def run(self) -> None:
        """Publish until cancelled."""
        await self._emitter.run()

    async def finish(self) -> None:
        """Nothing more: Oona's part makes the last try before it closes the bus."""
