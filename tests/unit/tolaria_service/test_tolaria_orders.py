"""Orders stand until they are answered, whatever the connection does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from esper_core import leyline
from esper_core.errors import StateConflictError, TimeoutExceededError, UnavailableError
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from tolaria.service.orders import Line, OrderDesk, RunOverError, new_order

RUN = "01M7Z07KNP13PFR39VW9WR1SJF"
PAUSE = leyline.ORDER_KIND_PAUSE


def applied(order: tolaria_pb2.WorkerOrder) -> tolaria_pb2.OrderResult:
    return tolaria_pb2.OrderResult(order_id=order.order_id, applied=True)


async def sent(line: Line) -> tolaria_pb2.WorkerOrder:
    orders: AsyncIterator[tolaria_pb2.WorkerOrder] = line.orders()
    async with asyncio.timeout(5):
        return await anext(orders)


async def test_an_order_waits_for_the_worker_and_is_answered() -> None:
    desk, order = OrderDesk(), new_order(PAUSE, "lunch")
    waiting = asyncio.create_task(desk.obeyed(RUN, order, 5))
    await asyncio.sleep(0)
    line = desk.attach(RUN)
    assert await sent(line) == order
    desk.answered(RUN, applied(order))
    assert (await waiting).applied


async def test_an_unanswered_order_is_sent_again_after_a_reconnect_and_counts_once() -> None:
    desk, order = OrderDesk(), new_order(PAUSE)
    first = desk.attach(RUN)
    waiting = asyncio.create_task(desk.obeyed(RUN, order, 5))
    assert await sent(first) == order
    desk.detach(first)
    second = desk.attach(RUN)
    assert await sent(second) == order
    desk.answered(RUN, applied(order))
    desk.answered(RUN, applied(order))
    assert (await waiting).applied
    desk.detach(second)
    third = desk.attach(RUN)
    third.close()
    assert [item async for item in third.orders()] == []


async def test_a_new_connection_ends_the_old_one() -> None:
    desk = OrderDesk()
    old = desk.attach(RUN)
    new = desk.attach(RUN)
    assert [item async for item in old.orders()] == []
    desk.detach(old)
    assert desk.connected(RUN)
    desk.detach(new)
    assert not desk.connected(RUN)


async def test_nobody_connected_in_time_is_a_typed_failure_and_the_order_is_withdrawn() -> None:
    desk, order = OrderDesk(), new_order(PAUSE)
    with pytest.raises(UnavailableError, match="did not connect"):
        await desk.obeyed(RUN, order, 0.01)
    line = desk.attach(RUN)
    line.close()
    assert [item async for item in line.orders()] == []


async def test_a_worker_that_was_told_but_is_silent_is_another_failure() -> None:
    desk = OrderDesk()
    line = desk.attach(RUN)
    reading = asyncio.create_task(sent(line))
    with pytest.raises(TimeoutExceededError, match="next fence"):
        await desk.obeyed(RUN, new_order(PAUSE), 0.05)
    assert (await reading).kind == PAUSE


async def test_an_order_whose_giver_went_away_is_not_obeyed() -> None:
    desk = OrderDesk()
    waiting = asyncio.create_task(desk.obeyed(RUN, new_order(PAUSE), 5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    line = desk.attach(RUN)
    line.close()
    assert [item async for item in line.orders()] == []


async def test_a_refusal_comes_back_as_the_error_that_the_worker_named() -> None:
    desk, order = OrderDesk(), new_order(PAUSE)
    waiting = asyncio.create_task(desk.obeyed(RUN, order, 5))
    await asyncio.sleep(0)
    desk.answered(
        RUN, tolaria_pb2.OrderResult(order_id=order.order_id, error_code=StateConflictError.code, message="No.")
    )
    with pytest.raises(StateConflictError, match="No"):
        await waiting


async def test_a_rollback_that_missed_is_an_answer_and_no_error() -> None:
    desk, order = OrderDesk(), new_order(leyline.ORDER_KIND_ROLLBACK, to_step=3)
    waiting = asyncio.create_task(desk.obeyed(RUN, order, 5))
    await asyncio.sleep(0)
    report = leyline.RollbackReport(outcome=leyline.ROLLBACK_OUTCOME_MISS, message="Nothing there.")
    desk.answered(RUN, tolaria_pb2.OrderResult(order_id=order.order_id, error_code="ESP-1013", rollback=report))
    assert (await waiting).rollback.outcome == leyline.ROLLBACK_OUTCOME_MISS


async def test_the_end_of_a_run_releases_everybody_who_waits() -> None:
    desk = OrderDesk()
    waiting = [asyncio.create_task(desk.obeyed(RUN, new_order(PAUSE), 5)) for _ in range(3)]
    await asyncio.sleep(0)
    desk.over(RUN, "The budget is spent.")
    for task in waiting:
        with pytest.raises(RunOverError, match="budget is spent"):
            await task


async def test_the_same_order_stands_only_once() -> None:
    desk, order = OrderDesk(), new_order(leyline.ORDER_KIND_EMERGENCY)
    desk.give(RUN, order)
    desk.give(RUN, order)
    line = desk.attach(RUN)
    line.close()
    assert [item async for item in line.orders()] == [order]
