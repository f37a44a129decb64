"""Where kernels come from: asked of Urza first, prefetched through the bus, waited for within bounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, Deadline
from esper_core.errors import (
    EsperError,
    NotFoundError,
    QuarantinedError,
    TimeoutExceededError,
    ValidationError,
)
from esper_core.ids import new_id
from esper_core.logs import get_logger
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import Backoff, mapped_errors
from kasmina.catalogue import Catalogue
from kasmina.convert.catalogue import kernel_from_message, key_to_message, prefetch_to_message, problem_from_message
from kasmina.kernels import Kernel, KernelKey, KernelProblem, KernelRequest, KernelTable
from kasmina.run import Greeting
from kasmina.telemetry import CRITICAL, ERROR, INFO, Telemetry

PublishPrefetch = Callable[[leyline.KernelPrefetchRequest], Awaitable[object]]
_POLL_S: Final = 0.5
_BACKOFF: Final = Backoff(first_s=0.5, longest_s=10.0)
_log = get_logger("kernels")


class KernelSupply:
    """Keeps the table of kernels current and gets those that a command needs.

    Parameters
    ----------
    table : KernelTable
        Readiness by key.
    urza : stub
        Stub of `esper.urza.v1.Library`.
    publish : callable
        Puts a prefetch on the bus; an `EsperError` means that it could not.
    telemetry : Telemetry
        Hears of requests, answers and time-outs.
    budget_s : float
        Expected time of a prefetch; one that takes twice as long is given up and told.
    clock : Clock
        Time.
    """

    def __init__(
        self,
        table: KernelTable,
        urza: Any,
        publish: PublishPrefetch,
        telemetry: Telemetry,
        *,
        budget_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._table = table
        self._urza = urza
        self._publish = publish
        self._telemetry = telemetry
        self._budget_s = budget_s
        self._clock = clock
        self._changed = asyncio.Event()
        self._waiting = 0
        self._random = random.Random()

    async def prefetch_all(self, greeting: Greeting, catalogue: Catalogue) -> None:
        """Ask for a kernel of every allowed blueprint at every site that it fits, with default parameters.

        Comes back until Urza has told all allowed blueprints and every request went out, so that it does not matter
        in which order the services started.
        """
        failures = 0
        while not await self._prefetch_known(greeting, catalogue):
            failures += 1
            await asyncio.sleep(_BACKOFF.wait_s(failures, self._random))

    async def _prefetch_known(self, greeting: Greeting, catalogue: Catalogue) -> bool:
        complete = all(catalogue.get(name) is not None for name in greeting.blueprint_ids)
        for key in wanted_keys(greeting, catalogue):
            try:
                await self.prefetch(greeting.run_id, key)
            except EsperError as error:
                _log.warning("prefetch not sent", blueprint=key.blueprint_id, code=error.code, reason=error.message)
                complete = False
        return complete

    async def prefetch(self, run_id: str, key: KernelKey) -> None:
        """Look for a kernel in Urza, and ask for it on the bus when it is not there.

        Raises
        ------
        EsperError
            If neither Urza nor the bus answers.
        """
        if self._table.state(key) != "unknown" and not self._may_ask_again(key):
            return
        if await self._look_up(key):
            return
        request = KernelRequest(new_id("prefetch"), run_id, key, self._clock.wall())
        self._table.request(request)
        self._tell("requested")
        try:
            await self._publish(prefetch_to_message(request))
        except EsperError:
            self._table.settle(request.request_id)
            self._tell("not_sent")
            raise

    async def obtain(self, run_id: str, key: KernelKey, timeout_s: float) -> Kernel | KernelProblem:
        """Return a kernel, waiting for it at most `timeout_s`, or why there is none."""
        kernel = self._table.get(key)
        if kernel is not None:
            self._telemetry.instruments.count("kasmina.cache.hits_total")
            return kernel
        self._telemetry.instruments.count("kasmina.cache.misses_total")
        self._waiting += 1
        self._telemetry.instruments.gauge("kasmina.kernel.pending", self._waiting)
        try:
            return await self._wait_for(run_id, key, Deadline.after(timeout_s, self._clock), timeout_s)
        finally:
            self._waiting -= 1
            self._telemetry.instruments.gauge("kasmina.kernel.pending", self._waiting)

    async def _wait_for(self, run_id: str, key: KernelKey, deadline: Deadline, span_s: float) -> Kernel | KernelProblem:
        late = KernelProblem(TimeoutExceededError.code, f"No kernel came within {span_s:g} s.", True)
        last = await self._ask(run_id, key)
        while True:
            changed = self._changed
            found = self._table.get(key) or self._table.problem(key)
            if found is not None:
                return found
            if deadline.passed:
                return last or late
            try:
                await asyncio.wait_for(changed.wait(), min(_POLL_S, max(deadline.remaining_s, 0.001)))
            except TimeoutError:
                last = await self._ask(run_id, key)

    async def _ask(self, run_id: str, key: KernelKey) -> KernelProblem | None:
        """Ask Urza, and the bus where that was not done; the news that neither answers is no end of the waiting."""
        try:
            if self._table.state(key) == "requested":
                await self._look_up(key)
            else:
                await self.prefetch(run_id, key)
        except EsperError as error:
            return KernelProblem(error.code, error.message, error.retryable)
        return None

    async def _look_up(self, key: KernelKey) -> bool:
        """Ask Urza, which tells nothing about quarantined kernels but that they are."""
        try:
            with mapped_errors("urza"):
                found = await self._urza.GetKernel(urza_pb2.GetKernelRequest(key=key_to_message(key)), timeout=2.0)
        except NotFoundError:
            return False
        except QuarantinedError as error:
            self._table.fail(key, KernelProblem(error.code, error.message, False))
            return True
        self.take(found)
        return True

    def take(self, message: leyline.KernelDescriptor) -> None:
        """Note a kernel that lies in Urza; one that is quarantined is dropped instead."""
        if message.quarantined:
            self._table.forget(message.weights_digest)
            return
        try:
            self._table.put(kernel_from_message(message))
        except ValidationError as error:
            self._telemetry.event("kernel_unreadable", ERROR, error.message, digest=message.weights_digest)
            return
        self._telemetry.instruments.gauge("kasmina.cache.size", self._table.ready_count)
        self._wake()

    def ready(self, message: leyline.KernelReady) -> None:
        """Take the answer to a prefetch; a repeated one changes nothing."""
        request = self._settled(message.request_id, "ready")
        if message.handling_class == leyline.HANDLING_CLASS_QUARANTINE:
            key = request.key if request else kernel_from_message(message.kernel).key
            sentence = f"The assessment of {key.blueprint_id} demands quarantine."
            self._table.fail(key, KernelProblem(QuarantinedError.code, sentence, False))
            self._wake()
        else:
            self.take(message.kernel)

    def failed(self, message: leyline.KernelError) -> None:
        """Take the news that a kernel could not be made."""
        request = self._settled(message.request_id, "error")
        if request is None:
            return
        self._table.fail(request.key, problem_from_message(message))
        self._telemetry.instruments.count("kasmina.kernel.failures_total", reason=message.error_code)
        attributes = {"blueprint": message.blueprint_id, "code": message.error_code}
        self._telemetry.event("kernel_failed", ERROR, message.message, message.training_run_id, **attributes)
        self._wake()

    def cancel_run(self, run_id: str) -> int:
        """Withdraw the prefetches of a run and return their number."""
        canceled = self._table.cancel_run(run_id)
        for request in canceled:
            self._tell("canceled")
            sentence = f"The prefetch of {request.key.blueprint_id} is no longer needed."
            self._telemetry.event("prefetch_canceled", INFO, sentence, run_id, request_id=request.request_id)
        return len(canceled)

    def give_up_overdue(self) -> int:
        """Give up prefetches that took more than twice their budget, and tell."""
        late = self._table.overdue(self._clock.wall(), 2 * self._budget_s)
        for request in late:
            self._tell("timeout")
            sentence = f"No kernel of {request.key.blueprint_id} came within {2 * self._budget_s:g} s."
            self._table.fail(request.key, KernelProblem(TimeoutExceededError.code, sentence, True))
            self._telemetry.event("prefetch_timeout", CRITICAL, sentence, request.run_id, request_id=request.request_id)
        return len(late)

    def _may_ask_again(self, key: KernelKey) -> bool:
        problem = self._table.problem(key)
        return problem is not None and problem.retryable

    def _settled(self, request_id: str, status: str) -> KernelRequest | None:
        request = self._table.settle(request_id)
        if request is not None:
            self._tell(status)
            took = (self._clock.wall() - request.requested_at).total_seconds()
            self._telemetry.instruments.observe("kasmina.prefetch.latency_ms", took * 1000)
        return request

    def _tell(self, status: str) -> None:
        self._telemetry.instruments.count("kasmina.prefetch.requests_total", status=status)
        self._telemetry.instruments.gauge("kasmina.prefetch.inflight", self._table.inflight)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def wanted_keys(greeting: Greeting, catalogue: Catalogue) -> Iterable[KernelKey]:
    """Return every kernel that a run may want: allowed, eligible, fitting, with default parameters, each once."""
    seen: set[KernelKey] = set()
    for blueprint_id in greeting.blueprint_ids:
        item = catalogue.get(blueprint_id)
        if item is None or item.ineligible():
            continue
        for site in greeting.sites:
            key = KernelKey.of(blueprint_id, item.blueprint.complete({}), site.contract)
            if site.contract.kind in item.blueprint.site_kinds and key not in seen:
                seen.add(key)
                yield key
