"""How a germination gets its kernel: from the cache, from Urza, or from Urabrask over the bus, within a bound.

What is kept here are descriptors, immutable and addressed by content. The bytes go from Urza to the training process,
which proves their digest before it parses them and builds a module of its own for every seed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

from esper_core import leyline
from esper_core.breaker import CircuitBreaker
from esper_core.clocks import SYSTEM_CLOCK, Clock, Deadline
from esper_core.errors import (
    EsperError,
    NotFoundError,
    OperationCancelledError,
    QuarantinedError,
    TimeoutExceededError,
    UnavailableError,
    ValidationError,
)
from esper_core.keyed_locks import KeyedLocks
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import mapped_errors
from kasmina.convert.catalogue import kernel_from_message, key_to_message, problem_from_message
from kasmina.kernels import Kernel, KernelKey, KernelProblem, KernelTable
from kasmina.prefetching import Prefetches, PublishPrefetch
from kasmina.telemetry import ERROR, INFO, WARNING, Telemetry
from kasmina.waits import Wait, Waits

_POLL_S: Final = 0.5
_LOOK_UP_S: Final = 2.0
_AWAY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What a clean-up ended: requests on their way, and commands that waited for a kernel."""

    prefetches: int = 0
    waits: int = 0


class KernelLoadManager:
    """Keeps the table of kernels current and gets those that a command needs. Needs no running loop to be made.

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
        self._telemetry = telemetry
        self._clock = clock
        self._prefetches = Prefetches(table, publish, telemetry, budget_s, clock)
        self._waits = Waits(telemetry)
        observe = telemetry.instruments.observe
        self._locks = KeyedLocks(lambda waited_ms: observe("kasmina.cache.lock_wait_ms", waited_ms))
        self._breaker = CircuitBreaker("urza", open_s=_AWAY_S, on_transition=telemetry.breaker_moved, clock=clock)
        self._closed = False

    async def prefetch(self, run_id: str, key: KernelKey) -> None:
        """Look for a kernel in Urza, and ask for it on the bus when it is not there.

        Raises
        ------
        EsperError
            If neither Urza nor the bus answers, or everything is being shut down.
        """
        async with self._locks.hold(key.blueprint_id):
            if self._closed:
                raise UnavailableError("Kasmina is shutting down. Try again in a moment.")
            if self._table.state(key) != "unknown" and not self._may_ask_again(key):
                return
            if not await self._look_up(key):
                await self._prefetches.send(run_id, key)

    async def obtain(self, run_id: str, key: KernelKey, timeout_s: float) -> Kernel | KernelProblem:
        """Return a kernel, or why there is none after `timeout_s`.

        A question that is under way by then is heard out, so that it is known what was asked for: `_LOOK_UP_S` for
        Urza, and as long as the bus tries to publish.
        """
        kernel = self._table.get(key)
        self._telemetry.instruments.count(f"kasmina.cache.{'hits' if kernel else 'misses'}_total")
        if kernel is not None:
            return kernel
        with self._waits.entry(run_id, key) as wait:
            return await self._wait_for(wait, Deadline.after(timeout_s, self._clock), timeout_s)

    async def _wait_for(self, wait: Wait, deadline: Deadline, span_s: float) -> Kernel | KernelProblem:
        late = KernelProblem(TimeoutExceededError.code, f"No kernel came within {span_s:g} s.", True)
        last = await self._ask(wait)
        while True:
            news = self._waits.news()
            found = self._found(wait)
            if found is not None:
                return found
            if deadline.passed:
                return last or late
            try:
                async with asyncio.timeout(min(_POLL_S, max(deadline.remaining_s, 0.001))):
                    await news.wait()
            except TimeoutError:
                last = await self._ask(wait)

    def _found(self, wait: Wait) -> Kernel | KernelProblem | None:
        if wait.canceled:
            return KernelProblem(OperationCancelledError.code, wait.canceled, False)
        return self._table.peek(wait.key) or self._table.problem(wait.key)

    async def _ask(self, wait: Wait) -> KernelProblem | None:
        """Ask Urza, and the bus where that was not done; the news that neither answers is no end of the waiting."""
        if wait.canceled:
            return None
        try:
            if self._table.state(wait.key) == "requested":
                await self._look_up(wait.key)
            else:
                await self.prefetch(wait.run_id, wait.key)
        except EsperError as error:
            return KernelProblem(error.code, error.message, error.retryable)
        return None

    async def _look_up(self, key: KernelKey) -> bool:
        """Ask Urza, which tells nothing about quarantined kernels but that they are."""
        request = urza_pb2.GetKernelRequest(key=key_to_message(key))
        try:
            with self._breaker.guard(_speaks_against_urza), mapped_errors("urza"):
                found = await self._urza.GetKernel(request, timeout=_LOOK_UP_S)
        except NotFoundError:
            return False
        except QuarantinedError as error:
            self._table.fail(key, KernelProblem(error.code, error.message, False))
            return True
        self.take(found)
        return True

    def take(self, message: leyline.KernelDescriptor, *, restricted: bool = False) -> None:
        """Note a kernel that lies in Urza; one that is quarantined is dropped instead."""
        if message.quarantined:
            self._table.forget(message.weights_digest)
        else:
            self._put(message, restricted)
        self.tell_cache()
        self._waits.wake()

    def _put(self, message: leyline.KernelDescriptor, restricted: bool) -> None:
        try:
            kernel = replace(kernel_from_message(message), restricted=restricted)
        except ValidationError as error:
            self._telemetry.event("kernel_unreadable", ERROR, error.message, digest=message.weights_digest)
            return
        evicted = self._table.put(kernel)
        self._telemetry.instruments.count("kasmina.cache.evictions_total", evicted)

    def ready(self, message: leyline.KernelReady) -> None:
        """Take the answer to a prefetch; a repeated one changes nothing."""
        request = self._prefetches.settle(message.request_id, "ready")
        if message.handling_class == leyline.HANDLING_CLASS_QUARANTINE:
            key = request.key if request else kernel_from_message(message.kernel).key
            sentence = f"The assessment of {key.blueprint_id} demands quarantine."
            self._table.fail(key, KernelProblem(QuarantinedError.code, sentence, False))
            self._waits.wake()
            return
        restricted = message.handling_class == leyline.HANDLING_CLASS_RESTRICTED
        if restricted and request is not None:
            sentence = f"The assessment of {message.kernel.blueprint_id} restricts it to runs that allow it."
            attributes = {"digest": message.kernel.weights_digest, "risk_score": message.risk_score}
            self._telemetry.event("kernel_restricted", WARNING, sentence, message.training_run_id, **attributes)
        self.take(message.kernel, restricted=restricted)

    def failed(self, message: leyline.KernelError) -> None:
        """Take the news that a kernel could not be made."""
        request = self._prefetches.settle(message.request_id, "error")
        if request is None:
            return
        self._table.fail(request.key, problem_from_message(message))
        self._telemetry.instruments.count("kasmina.kernel.failures_total", reason=message.error_code)
        attributes = {"blueprint": message.blueprint_id, "code": message.error_code}
        self._telemetry.event("kernel_failed", ERROR, message.message, message.training_run_id, **attributes)
        self._waits.wake()

    def cancel_run(self, run_id: str, why: str) -> Cleanup:
        """Withdraw what a run has asked for, and let its commands stop waiting."""
        prefetches = self._prefetches.withdraw(lambda request: request.run_id == run_id, why)
        return Cleanup(prefetches, self._waits.cancel(lambda wait: wait.run_id == run_id, why))

    def retire(self, blueprint_id: str, why: str) -> Cleanup:
        """Withdraw what was asked for of a blueprint that may no longer be used."""
        prefetches = self._prefetches.withdraw(lambda request: request.key.blueprint_id == blueprint_id, why)
        return Cleanup(prefetches, self._waits.cancel(lambda wait: wait.key.blueprint_id == blueprint_id, why))

    def close(self) -> Cleanup:
        """Withdraw everything at once and tell how much it was; nothing is asked for afterwards."""
        self._closed = True
        why = "Kasmina is shutting down."
        done = Cleanup(self._prefetches.withdraw(lambda _: True, why), self._waits.cancel(lambda _: True, why))
        sentence = f"{done.prefetches} prefetches and {done.waits} waiting commands were canceled: {why}"
        self._telemetry.event(
            "kernels_closed", INFO, sentence, prefetches_canceled=done.prefetches, waits_canceled=done.waits
        )
        return done

    def give_up_overdue(self) -> int:
        """Give up prefetches that took more than twice their budget, and tell."""
        late = self._prefetches.give_up_overdue()
        if late:
            self._waits.wake()
        return late

    def tell_cache(self) -> None:
        """Tell how many kernels are known, and how often the cache of the last minutes had what was looked for."""
        stats, instruments = self._table.stats(), self._telemetry.instruments
        instruments.gauge("kasmina.cache.size", stats.size)
        if stats.hit_rate is not None:
            instruments.gauge("kasmina.cache.hit_rate", stats.hit_rate)

    def _may_ask_again(self, key: KernelKey) -> bool:
        problem = self._table.problem(key)
        return problem is not None and problem.retryable


def _speaks_against_urza(error: Exception) -> bool:
    return isinstance(error, UnavailableError | TimeoutExceededError)
