"""Orders to workers: they stand until they are answered, survive a broken connection, and are never obeyed twice."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from esper_core import leyline
from esper_core.errors import EsperError, StateConflictError, TimeoutExceededError, UnavailableError, from_code
from esper_core.ids import new_id
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2


class RunOverError(StateConflictError):
    """The run ended before its worker could obey."""


@dataclass(slots=True)
class _Standing:
    order: tolaria_pb2.WorkerOrder
    answer: asyncio.Future[tolaria_pb2.OrderResult | RunOverError]
    sent: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """The open connection to one worker."""

    run_id: str
    _orders: asyncio.Queue[_Standing | None] = field(default_factory=asyncio.Queue)

    def put(self, standing: _Standing) -> None:
        """Have an order sent."""
        self._orders.put_nowait(standing)

    def close(self) -> None:
        """Send nothing after what was put before."""
        self._orders.put_nowait(None)

    async def orders(self) -> AsyncIterator[tolaria_pb2.WorkerOrder]:
        """Yield what is to be sent; an order that was given up meanwhile is left out."""
        while (standing := await self._orders.get()) is not None:
            if not standing.answer.cancelled():
                standing.sent = True
                yield standing.order


class OrderDesk:
    """Keeps the orders of all runs. Lives on one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._standing: dict[str, OrderedDict[str, _Standing]] = {}

    def attach(self, run_id: str) -> Line:
        """Open the line to a worker that has just connected; whatever stands is sent, again if need be."""
        former = self._lines.get(run_id)
        if former is not None:
            former.close()
        line = self._lines[run_id] = Line(run_id)
        for standing in self._standing.get(run_id, {}).values():
            line.put(standing)
        return line

    def detach(self, line: Line) -> None:
        """Close a line; unanswered orders go on standing."""
        line.close()
        if self._lines.get(line.run_id) is line:
            del self._lines[line.run_id]

    def connected(self, run_id: str) -> bool:
        """Say whether the worker of a run is connected."""
        return run_id in self._lines

    def give(self, run_id: str, order: tolaria_pb2.WorkerOrder) -> None:
        """Let an order stand without waiting for it; one with a known id stands only once."""
        self._stand(run_id, order)

    async def obeyed(self, run_id: str, order: tolaria_pb2.WorkerOrder, timeout_s: float) -> tolaria_pb2.OrderResult:
        """Give an order and wait until it was obeyed; one that is not obeyed in time no longer stands.

        Raises
        ------
        UnavailableError
            If the worker did not connect in time.
        TimeoutExceededError
            If it was told but did not answer in time.
        RunOverError
            If the run ended first.
        EsperError
            If the worker refused; the class is the worker's.
        """
        standing = self._stand(run_id, order)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await asyncio.shield(standing.answer)
        except TimeoutError as error:
            raise _too_late(run_id, standing, timeout_s) from error
        finally:
            # Also when the caller gives up: nobody expects an order to be obeyed that he was told has failed.
            if not standing.answer.done():
                self._withdraw(run_id, order.order_id)
                standing.answer.cancel()
        if isinstance(answer, RunOverError):
            raise answer
        # A rollback that found nothing to go back to was carried out all the same; its report says so.
        if not answer.applied and not answer.HasField("rollback"):
            raise refusal(answer)
        return answer

    def answered(self, run_id: str, result: tolaria_pb2.OrderResult) -> None:
        """Take a worker's answer; one to an order that no longer stands is of no interest to anyone."""
        standing = self._withdraw(run_id, result.order_id)
        if standing is not None and not standing.answer.done():
            standing.answer.set_result(result)

    def over(self, run_id: str, reason: str) -> None:
        """Release everybody who waits for a run that has ended."""
        for standing in self._standing.pop(run_id, {}).values():
            if not standing.answer.done():
                standing.answer.set_result(RunOverError(f"Run {run_id} has ended: {reason}"))

    def _stand(self, run_id: str, order: tolaria_pb2.WorkerOrder) -> _Standing:
        orders = self._standing.setdefault(run_id, OrderedDict())
        known = orders.get(order.order_id)
        if known is not None:
            return known
        standing = orders[order.order_id] = _Standing(order, asyncio.get_running_loop().create_future())
        if run_id in self._lines:
            self._lines[run_id].put(standing)
        return standing

    def _withdraw(self, run_id: str, order_id: str) -> _Standing | None:
        return self._standing.get(run_id, OrderedDict()).pop(order_id, None)


def new_order(
    kind: leyline.OrderKind.ValueType, reason: str = "", *, to_step: int | None = None, full: bool = False
) -> tolaria_pb2.WorkerOrder:
    """Make an order with an id of its own."""
    return tolaria_pb2.WorkerOrder(order_id=new_id("order"), kind=kind, reason=reason, to_step=to_step, full=full)


def refusal(result: tolaria_pb2.OrderResult) -> EsperError:
    """Return a worker's refusal as the error that it named."""
    return from_code(result.error_code or StateConflictError.code, result.message, {"order_id": result.order_id})


def _too_late(run_id: str, standing: _Standing, timeout_s: float) -> EsperError:
    if not standing.sent:
        return UnavailableError(
            f"The worker of run {run_id} did not connect within {timeout_s:g} s. Look into worker.log of the run."
        )
    return TimeoutExceededError(
        f"The worker of run {run_id} was told but did not answer within {timeout_s:g} s; it obeys at its next fence."
    )
