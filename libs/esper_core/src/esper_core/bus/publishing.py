"""The one task that empties the outbox: batches on one stream, again and again while the broker is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from esper_core import leyline
from esper_core.bus.envelope import EnvelopeSealer
from esper_core.bus.link import Link
from esper_core.bus.outbox import Outbox, Receipt, Waiting
from esper_core.bus.routing import type_name
from esper_core.bus.telling import Teller
from esper_core.errors import EsperError, UnavailableError, from_code
from esper_core.pb.esper.oona.v1 import oona_pb2
from esper_core.rpc.retry import Backoff

BATCH_TIMEOUT_S: Final = 10.0
_UNAVAILABLE: Final = UnavailableError.code
_BACKOFF: Final = Backoff(first_s=0.1, longest_s=2.0)


class Pump:
    """Publishes what is in the outbox until cancelled.

    Parameters
    ----------
    link : Link
        The way to the broker.
    outbox : Outbox
        What waits.
    sealer : EnvelopeSealer
        Signs each envelope when it leaves, so that none goes stale while it waits.
    teller : Teller
        Hears of what happens.
    """

    def __init__(self, link: Link, outbox: Outbox, sealer: EnvelopeSealer, teller: Teller) -> None:
        self._link = link
        self._outbox = outbox
        self._sealer = sealer
        self._teller = teller
        self._random = random.Random()
        self._failures = 0
        self._moved = asyncio.Event()
        self.problem = ""
        self.busy = False

    async def moved(self) -> None:
        """Wait until the next batch is through, whatever became of it."""
        self._moved.clear()
        await self._moved.wait()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            if not await self.publish_batch():
                await asyncio.sleep(_BACKOFF.wait_s(self._failures, self._random))

    async def publish_batch(self) -> bool:
        """Publish one batch; tell whether the broker could take messages."""
        batch = await self._outbox.take()
        self.busy = True
        try:
            return await self._publish(batch)
        finally:
            self.busy = False
            self._moved.set()

    async def _publish(self, batch: list[Waiting]) -> bool:
        try:
            receipts = await self._send(batch)
        except asyncio.CancelledError:
            self._outbox.put_back(batch)
            raise
        except EsperError as error:
            self._keep_or_fail(batch, error)
            return self._away(error.message)
        waiting = [item for item, receipt in zip(batch, receipts, strict=True) if not self._settle(item, receipt)]
        self._outbox.put_back(waiting)
        if waiting:
            return self._away(next(receipt.message for receipt in receipts if receipt.error_code == _UNAVAILABLE))
        return self._back()

    async def _send(self, batch: list[Waiting]) -> Sequence[oona_pb2.PublishReceipt]:
        envelopes = [self._sealer.seal(item.envelope) for item in batch]
        return await self._link.publish(envelopes, BATCH_TIMEOUT_S)

    def _keep_or_fail(self, batch: list[Waiting], error: EsperError) -> None:
        if error.retryable:
            self._outbox.put_back(batch)
            return
        for item in batch:
            self._refused(item, error)

    def _settle(self, item: Waiting, receipt: oona_pb2.PublishReceipt) -> bool:
        """Give a publisher the outcome; False when the envelope has to be tried again."""
        if receipt.accepted:
            self._teller.count("bus.publish_total", outcome="accepted")
            if item.outcome is not None and not item.outcome.done():
                item.outcome.set_result(Receipt(receipt.message_id, receipt.stream, receipt.spilled))
            return True
        if receipt.error_code == _UNAVAILABLE:
            return False
        retry_after_s = receipt.retry_after_ms / 1000 or None
        self._refused(item, from_code(receipt.error_code, receipt.message, {}, retry_after_s=retry_after_s))
        return True

    def _refused(self, item: Waiting, error: EsperError) -> None:
        self._teller.count("bus.publish_total", outcome="refused")
        if item.outcome is not None:
            if not item.outcome.done():
                item.outcome.set_exception(error)
            return
        self._teller.event(
            "bus_message_refused",
            leyline.TELEMETRY_LEVEL_ERROR,
            f"A {type_name(item.envelope.message_type)} message was refused: {error.message}",
            code=error.code,
            message_type=type_name(item.envelope.message_type),
        )

    def _away(self, problem: str) -> bool:
        self._failures += 1
        self._teller.count("bus.publish_failures_total")
        self._teller.gauge("bus.buffer.messages", len(self._outbox))
        if not self.problem:
            self._teller.event(
                "bus_away",
                leyline.TELEMETRY_LEVEL_ERROR,
                f"The bus takes no messages, they wait here: {problem}",
                waiting=str(len(self._outbox)),
            )
        self.problem = problem
        return False

    def _back(self) -> bool:
        self._failures = 0
        self._teller.gauge("bus.buffer.messages", len(self._outbox))
        if self.problem:
            self.problem = ""
            self._teller.event("bus_back", leyline.TELEMETRY_LEVEL_INFO, "The bus takes messages again.")
        return True
