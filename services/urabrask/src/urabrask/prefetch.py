"""Answers requests for kernels that come over the bus."""

from __future__ import annotations

from typing import Protocol

from esper_core import leyline
from esper_core.bus import Received
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import EsperError
from esper_core.guard import require_id
from urabrask.assessor import Assessor
from urabrask.convert import spec_from_messages
from urabrask.jobs import JobList
from urabrask.sheets import prewarm


class Publishing(Protocol):
    """Where answers go; the bus is one."""

    async def publish(
        self, message_type: int, payload: leyline.KernelReady | leyline.KernelError, priority: int, *, message_id: str
    ) -> object:
        """Publish and wait until the message is durable."""


class PrefetchDesk:
    """Takes requests, has kernels provided, publishes `KernelReady` or `KernelError`.

    Parameters
    ----------
    assessor : Assessor
        Provides kernels.
    jobs : JobList
        Lists the work.
    bus : Publishing
        Takes the answers.
    clock : Clock
        Source of time.
    """

    def __init__(self, assessor: Assessor, jobs: JobList, bus: Publishing, clock: Clock = SYSTEM_CLOCK) -> None:
        self._assessor = assessor
        self._jobs = jobs
        self._bus = bus
        self._clock = clock

    async def take(self, received: Received) -> None:
        """Handle one delivery; it is acknowledged only when the answer is durable.

        Raises
        ------
        DependencyViolationError
            If the request has no id, so that no answer would find it.
        UnavailableError
            If the answer cannot be published; the delivery then comes again, and the kernel is known by then.
        """
        request: leyline.KernelPrefetchRequest = received.message
        require_id("request_id", request.request_id)
        require_id("training_run_id", request.training_run_id)
        answer = await self.answer(request)
        ready = isinstance(answer, leyline.KernelReady)
        message_type = leyline.BUS_MESSAGE_TYPE_KERNEL_READY if ready else leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR
        await self._bus.publish(
            message_type, answer, leyline.MESSAGE_PRIORITY_NORMAL, message_id=f"{request.request_id}-answer"
        )

    async def answer(self, request: leyline.KernelPrefetchRequest) -> leyline.KernelReady | leyline.KernelError:
        """Return the answer to a request; errors become answers too."""
        try:
            with self._jobs.follow(request.blueprint_id) as job:
                spec = spec_from_messages(request.blueprint_id, request.parameters, request.contract)
                job.begin()
                provided = await self._assessor.provide(spec)
                if provided.refusal is not None:
                    raise provided.refusal
        except EsperError as error:
            return self._error(request, error)
        p50_ms, p95_ms = prewarm(provided.sheet)
        return leyline.KernelReady(
            version=1,
            request_id=request.request_id,
            training_run_id=request.training_run_id,
            kernel=provided.kernel,
            prewarm_p50_ms=p50_ms,
            prewarm_p95_ms=p95_ms,
            handling_class=provided.sheet.handling_class,
            risk_score=provided.sheet.risk_score,
            ready_at=to_timestamp(self._clock.wall()),
        )

    def _error(self, request: leyline.KernelPrefetchRequest, error: EsperError) -> leyline.KernelError:
        return leyline.KernelError(
            version=1,
            request_id=request.request_id,
            training_run_id=request.training_run_id,
            blueprint_id=request.blueprint_id,
            error_code=error.code,
            message=error.message,
            retryable=error.retryable,
            occurred_at=to_timestamp(self._clock.wall()),
        )
