"""The way in: verify, admit, store; CRITICAL messages find a way even when Redis is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from esper_core import leyline
from esper_core.breaker import CircuitBreaker
from esper_core.bus import EnvelopeVerifier, stream_of
from esper_core.bus.envelope import MAX_PAYLOAD_BYTES
from esper_core.clocks import Clock
from esper_core.errors import EsperError, UnavailableError, ValidationError
from esper_core.pb.esper.oona.v1 import oona_pb2
from oona.admission import Admission
from oona.spill import Spill
from oona.store import Store
from oona.telling import Teller

MAX_ENVELOPES: Final = 256
Outcome: TypeAlias = EsperError | oona_pb2.PublishReceipt
_CRITICAL: Final = leyline.MESSAGE_PRIORITY_CRITICAL


class Publisher:
    """Takes envelopes and says of each what became of it.

    Parameters
    ----------
    verifier : EnvelopeVerifier
        Checks contract, signature, times and digest.
    admission : Admission
        Rate limit and back-pressure.
    store : Store
        Redis.
    spill : Spill
        The journal for CRITICAL messages.
    breaker : CircuitBreaker
        Spares publishers the wait for a Redis that is away; CRITICAL messages pass it by.
    teller : Teller
        Hears of everything.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        verifier: EnvelopeVerifier,
        admission: Admission,
        store: Store,
        spill: Spill,
        breaker: CircuitBreaker,
        teller: Teller,
        clock: Clock,
    ) -> None:
        self._verifier = verifier
        self._admission = admission
        self._store = store
        self._spill = spill
        self._breaker = breaker
        self._teller = teller
        self._clock = clock

    async def publish(self, envelopes: Sequence[leyline.BusEnvelope]) -> list[Outcome]:
        """Publish a batch.

        Returns
        -------
        list
            For each envelope its receipt, or the error that kept it out.

        Raises
        ------
        ValidationError
            If the batch is too large.
        """
        if len(envelopes) > MAX_ENVELOPES:
            raise ValidationError(
                f"{len(envelopes)} envelopes are too many for one request.",
                field="envelopes",
                allowed=f"at most {MAX_ENVELOPES}",
            )
        refusals = [await self._refusal(envelope) for envelope in envelopes]
        let_in = [envelope for envelope, refusal in zip(envelopes, refusals, strict=True) if refusal is None]
        urgent = iter(await self._write_urgent([one for one in let_in if one.priority == _CRITICAL]))
        usual = iter(await self._write([one for one in let_in if one.priority != _CRITICAL]))
        return [
            refusal or next(urgent if envelope.priority == _CRITICAL else usual)
            for envelope, refusal in zip(envelopes, refusals, strict=True)
        ]

    async def _refusal(self, envelope: leyline.BusEnvelope) -> EsperError | None:
        try:
            self._verifier.verify(envelope)
        except EsperError as error:
            self._teller.rejected(envelope, error)
            await self._bury(envelope, error)
            return error
        return self._held_back(envelope)

    def _held_back(self, envelope: leyline.BusEnvelope) -> EsperError | None:
        stream, now = stream_of(envelope.message_type, envelope.priority), self._clock.monotonic()
        try:
            self._admission.require_admitted(stream, envelope.priority, envelope.source, now)
        except EsperError as error:
            self._teller.held_back(envelope, error)
            return error
        finally:
            if envelope.priority == leyline.MESSAGE_PRIORITY_HIGH:
                self._teller.tokens(envelope.source, self._admission.buckets.left(envelope.source, now))
        return None

    async def _bury(self, envelope: leyline.BusEnvelope, why: EsperError) -> None:
        kept = leyline.BusEnvelope()
        kept.CopyFrom(envelope)
        if len(kept.payload) > MAX_PAYLOAD_BYTES:
            kept.ClearField("payload")
        try:
            with self._breaker.guard(_counts):
                await self._store.bury(kept, f"Refused at the entrance: {why.message}")
        except UnavailableError as error:
            self._teller.event(
                "dead_letter_lost",
                leyline.TELEMETRY_LEVEL_ERROR,
                f"A refused envelope could not be kept: {error.message}",
                message_id=envelope.message_id[:64],
            )

    async def _write(self, envelopes: list[leyline.BusEnvelope]) -> list[Outcome]:
        if not envelopes:
            return []
        try:
            with self._breaker.guard(_counts):
                await self._store_timed(envelopes)
        except UnavailableError as error:
            for envelope in envelopes:
                self._teller.held_back(envelope, error)
            away = UnavailableError(error.message, retry_after_s=error.retry_after_s or 0.5)
            return [away] * len(envelopes)
        return [self._accepted(envelope) for envelope in envelopes]

    async def _write_urgent(self, envelopes: list[leyline.BusEnvelope]) -> list[Outcome]:
        if not envelopes:
            return []
        try:
            await self._store_timed(envelopes)
        except UnavailableError:
            return [await self._spilled(envelope) for envelope in envelopes]
        return [self._accepted(envelope) for envelope in envelopes]

    async def _store_timed(self, envelopes: list[leyline.BusEnvelope]) -> None:
        begun = self._clock.monotonic()
        await self._store.publish(envelopes)
        took_ms = (self._clock.monotonic() - begun) * 1000
        for envelope in envelopes:
            stream = stream_of(envelope.message_type, envelope.priority)
            self._teller.instruments.observe("oona.publish.latency_ms", took_ms, stream=stream)

    async def _spilled(self, envelope: leyline.BusEnvelope) -> Outcome:
        try:
            await self._spill.add(envelope)
        except EsperError as error:
            self._teller.held_back(envelope, error)
            return error
        receipt = self._accepted(envelope)
        receipt.spilled = True
        return receipt

    def _accepted(self, envelope: leyline.BusEnvelope) -> oona_pb2.PublishReceipt:
        stream = stream_of(envelope.message_type, envelope.priority)
        self._teller.published(envelope, stream)
        return oona_pb2.PublishReceipt(message_id=envelope.message_id, accepted=True, stream=stream)


def _counts(error: Exception) -> bool:
    return isinstance(error, UnavailableError)
