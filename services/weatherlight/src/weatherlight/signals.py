"""Emergency signals on the bus: ours go out signed, everybody's come in verified and are acted upon."""

from __future__ import annotations

from datetime import datetime

from esper_core import leyline
from esper_core.bus import Bus, Received
from esper_core.clocks import Clock, from_duration, from_timestamp, to_timestamp
from esper_core.errors import UnavailableError
from esper_core.security import FreshnessPolicy, Keyring, MessageSigner, MessageVerifier
from esper_core.telemetry import TelemetryEmitter
from weatherlight.convert import emergency as emergency_of
from weatherlight.emergencies import Emergency
from weatherlight.orchestrator import Orchestrator

GROUP = "weatherlight"
# An emergency that could not be delivered for a while is still one; only the signal's own time to live ends it.
FRESHNESS = FreshnessPolicy(max_window_s=3600.0)
LIFETIME_S = 3600.0


class SignalDesk:
    """Publishes and consumes emergency signals.

    Parameters
    ----------
    bus : Bus
        The bus.
    keyring : Keyring
        Signs and verifies for the purpose `emergency`.
    orchestrator : Orchestrator
        Acts.
    emitter : TelemetryEmitter
        Told about every signal.
    clock : Clock
        Source of time.
    """

    def __init__(
        self, bus: Bus, keyring: Keyring, orchestrator: Orchestrator, emitter: TelemetryEmitter, clock: Clock
    ) -> None:
        self._bus = bus
        self._orchestrator = orchestrator
        self._emitter = emitter
        self._clock = clock
        self._signer = MessageSigner(keyring, "emergency", window_s=LIFETIME_S, clock=clock)
        self._verifier = MessageVerifier(keyring, "emergency", ledger=None, freshness=FRESHNESS, clock=clock)

    async def run(self) -> None:
        """Consume signals until cancelled."""
        await self._bus.consume([leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL], group=GROUP, handler=self.take)

    async def take(self, received: Received) -> None:
        """Act on one signal from the bus, as `act` does."""
        await self.act(received.message)

    async def act(self, signal: leyline.EmergencySignal) -> None:
        """Act on one signal, whichever way it came; one that was acted on before is only counted.

        Raises
        ------
        CommandRejectedError
            If its signature does not hold; no retry can help.
        UnavailableError
            If somebody who must act is away; the signal comes again.
        """
        self._verifier.verify(signal).raise_if_rejected()
        self._emitter.count("weatherlight.emergency.telemetry_total", source=signal.origin)
        if expired(signal, self._clock.wall()):
            self._emitter.event("emergency_expired", leyline.TELEMETRY_LEVEL_WARNING, f"{signal.reason} came too late.")
            return
        if signal.clear:
            await self._orchestrator.clear(signal.training_run_id, signal.reason)
            return
        routing = await self._orchestrator.emergency(emergency_of(signal))
        if routing.duplicate:
            self._emitter.count("weatherlight.emergency.duplicates_total")
            return
        level = leyline.EmergencyLevel.Name(signal.level).removeprefix("EMERGENCY_LEVEL_")
        result = "complete" if routing.complete else "incomplete"
        self._emitter.count("weatherlight.emergency.routed_total", level=level, result=result)
        if not routing.complete:
            raise UnavailableError(f"The emergency {signal.signal_id} was not routed: {'; '.join(routing.actions)}.")

    def announce(self, emergency: Emergency) -> None:
        """Tell everybody on the bus about an emergency that was raised here."""
        signal = leyline.EmergencySignal(
            version=1,
            signal_id=emergency.signal_id,
            level=emergency.level,
            reason=emergency.reason,
            origin=emergency.origin,
            training_run_id=emergency.training_run_id,
            triggered_at=to_timestamp(self._clock.wall()),
        )
        self._bus.post(
            leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL, self._signer.sign(signal), leyline.MESSAGE_PRIORITY_CRITICAL
        )


def expired(signal: leyline.EmergencySignal, now: datetime) -> bool:
    """Return whether a signal's own time to live is over."""
    if not signal.HasField("ttl"):
        return False
    return (now - from_timestamp(signal.triggered_at)).total_seconds() > from_duration(signal.ttl)
