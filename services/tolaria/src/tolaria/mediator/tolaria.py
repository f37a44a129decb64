"""The link to Tolaria itself: reports out, orders in. Without it the run goes on; its folder says the same."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import grpc

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.logs import get_logger
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2 as tolaria
from esper_core.pb.esper.tolaria.v1.tolaria_pb2_grpc import WorkerLinkStub
from esper_core.rpc import Backoff
from tolaria.mediator.peer import PEER_FAILURES, Voices
from tolaria.mediator.wake import Wake
from tolaria.reporting.reporter import rollback_message
from tolaria.rundir import WorkerMark
from tolaria.safety.signals import order_of
from tolaria.settings import WorkerSettings
from tolaria.training.links import Links
from tolaria.training.orders import OrderOutcome

_JITTER: Final = random.Random()
_URGENT: Final = (leyline.ORDER_KIND_HALT, leyline.ORDER_KIND_EMERGENCY, leyline.ORDER_KIND_CLEAR_EMERGENCY)
"""Orders that find room even where too many wait: none of them may be lost."""
_log = get_logger("mediator")


class TolariaPart:
    """Keeps the Attach stream.

    Parameters
    ----------
    channel : grpc.aio.Channel
        To Tolaria.
    run_id : str
        The run.
    mark : WorkerMark
        Which process this is.
    settings, links, voices
        The worker's surroundings.
    """

    name = "tolaria"

    def __init__(
        self,
        channel: grpc.aio.Channel,
        run_id: str,
        mark: WorkerMark,
        settings: WorkerSettings,
        links: Links,
        voices: Voices,
    ) -> None:
        self._stub: Any = WorkerLinkStub(channel)
        self._channel = channel
        self._run_id = run_id
        self._mark = mark
        self._settings = settings
        self._links = links
        self._voices = voices
        self._wake = Wake()
        self._backoff = Backoff(settings.backoff_initial_s, settings.backoff_limit_s)
        self._call: Any = None
        self._finishing = False
        self._gone = asyncio.Event()

    async def run(self) -> None:
        """Keep the link up until told to finish, or cancelled."""
        self._links.to_tolaria.on_put(self._wake.from_thread())
        failures = 0
        try:
            while not self._finishing:
                attached = await self._attach_once()
                failures = 1 if attached else failures + 1
                if not self._finishing:
                    await asyncio.sleep(self._backoff.wait_s(min(failures, 16), _JITTER))
        finally:
            self._gone.set()

    async def finish(self) -> None:
        """Send the last answers and the last status, then close; the caller bounds the time."""
        self._finishing = True
        if self._call is not None:
            self._wake.set()
            await self._gone.wait()
        await self._channel.close()

    async def _attach_once(self) -> bool:
        """Hold one link until it ends; say whether it came about at all."""
        try:
            await self._attach()
        except PEER_FAILURES as error:
            _log.info("the link to Tolaria is down", reason=str(error)[:200])
        attached = self._call is not None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return attached

    async def _attach(self) -> None:
        call = self._stub.Attach()
        hello = tolaria.WorkerHello(training_run_id=self._run_id, pid=self._mark.pid, attempt=self._mark.attempt)
        await call.write(tolaria.WorkerReport(hello=hello))
        self._call = call
        reading = asyncio.create_task(self._read(call))
        try:
            while not (reading.done() or self._finishing):
                await self._send_news(call)
                await self._wake.wait(self._settings.status_interval_s)
            if self._finishing and not reading.done():
                await self._send_news(call)
                await call.done_writing()
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _send_news(self, call: Any) -> None:
        for outcome in self._links.to_tolaria.take():
            await call.write(tolaria.WorkerReport(result=_result(outcome)))
        await call.write(tolaria.WorkerReport(status=self._voices.board.status()))
        await call.write(tolaria.WorkerReport(events_through=self._voices.events.sequence))

    async def _read(self, call: Any) -> None:
        while True:
            order = await call.read()
            if order is grpc.aio.EOF:
                raise UnavailableError("Tolaria ended the link.")
            urgent = order.kind in _URGENT
            if not self._links.inbox.post(order_of(order), urgent=urgent):
                full = OrderOutcome(order.order_id, False, "ESP-1017", "Too many orders wait. Send it again.")
                self._links.to_tolaria.put(full)


def _result(outcome: OrderOutcome) -> tolaria.OrderResult:
    result = tolaria.OrderResult(
        order_id=outcome.order_id,
        applied=outcome.applied,
        error_code=outcome.error_code,
        message=outcome.message,
    )
    if outcome.rollback is not None:
        result.rollback.CopyFrom(rollback_message(outcome.rollback))
    return result
