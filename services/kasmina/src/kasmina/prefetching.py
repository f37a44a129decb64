"""Requests for kernels on their way over the bus: sent, answered, withdrawn or given up, and every end told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.errors import EsperError, TimeoutExceededError
from esper_core.ids import new_id
from kasmina.convert.catalogue import prefetch_to_message
from kasmina.kernels import KernelKey, KernelProblem, KernelRequest, KernelTable
from kasmina.telemetry import CRITICAL, INFO, Telemetry

PublishPrefetch = Callable[[leyline.KernelPrefetchRequest], Awaitable[object]]


class Prefetches:
    """Keeps the requests of a table and tells about each of them.

    Parameters
    ----------
    table : KernelTable
        Where requests are noted.
    publish : callable
        Puts a request on the bus; an `EsperError` means that it could not.
    telemetry : Telemetry
        Hears of every end.
    budget_s : float
        Expected time of a prefetch; one that takes twice as long is given up.
    clock : Clock
        Wall time.
    """

    def __init__(
        self, table: KernelTable, publish: PublishPrefetch, telemetry: Telemetry, budget_s: float, clock: Clock
    ) -> None:
        self._table = table
        self._publish = publish
        self._telemetry = telemetry
        self._limit_s = 2 * budget_s
        self._clock = clock

    async def send(self, run_id: str, key: KernelKey) -> str:
        """Ask for a kernel and return the id of the request.

        Raises
        ------
        EsperError
            If the bus does not take it; it counts as never asked then.
        """
        request = KernelRequest(new_id("prefetch"), run_id, key, self._clock.wall())
        self._table.request(request)
        self._tell("requested")
        try:
            await self._publish(prefetch_to_message(request))
        except EsperError:
            self._table.settle(request.request_id)
            self._tell("not_sent")
            raise
        return request.request_id

    def settle(self, request_id: str, status: str) -> KernelRequest | None:
        """Take note of an answer; None when it is not ours or came before."""
        request = self._table.settle(request_id)
        if request is not None:
            self._tell(status)
            took_s = (self._clock.wall() - request.requested_at).total_seconds()
            self._telemetry.instruments.observe("kasmina.prefetch.latency_ms", took_s * 1000)
        return request

    def withdraw(self, doomed: Callable[[KernelRequest], bool], why: str) -> int:
        """Withdraw requests and return their number; an answer that comes all the same is only noted."""
        canceled = self._table.take_requests(doomed)
        for request in canceled:
            self._tell("canceled")
            sentence = f"The prefetch of {request.key.blueprint_id} is withdrawn: {why}"
            self._event("prefetch_canceled", INFO, sentence, request)
        return len(canceled)

    def give_up_overdue(self) -> int:
        """Give up requests that took more than twice their budget, and return their number."""
        now = self._clock.wall()
        late = self._table.take_requests(lambda request: (now - request.requested_at).total_seconds() > self._limit_s)
        for request in late:
            self._tell("timeout")
            sentence = f"No kernel of {request.key.blueprint_id} came within {self._limit_s:g} s."
            self._table.fail(request.key, KernelProblem(TimeoutExceededError.code, sentence, True))
            self._event("prefetch_timeout", CRITICAL, sentence, request)
        return len(late)

    def _event(self, name: str, level: leyline.TelemetryLevel.ValueType, sentence: str, request: KernelRequest) -> None:
        attributes = {"request_id": request.request_id, "blueprint": request.key.blueprint_id}
        self._telemetry.event(name, level, sentence, request.run_id, **attributes)

    def _tell(self, status: str) -> None:
        self._telemetry.instruments.count("kasmina.prefetch.requests_total", status=status)
        self._telemetry.instruments.gauge("kasmina.prefetch.inflight", self._table.inflight)
