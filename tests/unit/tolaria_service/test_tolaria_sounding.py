"""Emergencies and missed deadlines at the service: they reach workers that listen, and those that do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_core.shared_ring import RingWriter
from esper_core.stack import ProcessIdentity
from support.tolaria_supervised import Room
from support.waiting import await_until
from tolaria.safety.deadlines import LAYOUT
from tolaria.service.deadlines import DeadlineWatch
from tolaria.service.emergencies import Emergency


def emergency(level: leyline.EmergencyLevel.ValueType) -> Emergency:
    return Emergency(level, "smoke", "", "signal-1", "test", datetime.now(UTC))


async def test_an_emergency_reaches_also_a_worker_that_does_not_listen(make: Callable[..., Room]) -> None:
    room = make(parallel=1)
    deaf, waiting = room.submit(), room.submit()
    async with room.running():
        pid = await room.pid(deaf)
        room.says(deaf, leyline.RUN_STATE_HALTED)
        told = await room.emergencies.sound(emergency(leyline.EMERGENCY_LEVEL_HALT))
        assert told == sorted([deaf, waiting])
        assert await room.emergencies.sound(emergency(leyline.EMERGENCY_LEVEL_HALT)) == told
        await await_until(lambda: ProcessIdentity.of(pid) is None, what="the worker having obeyed the signal")
    assert room.store.status(waiting).state == leyline.RUN_STATE_HALTED
    assert room.registry.get_sample_value("tolaria_emergency_halts_total") == 2


async def test_a_lower_emergency_waits_for_the_worker_and_is_cleared_after_it(make: Callable[..., Room]) -> None:
    room = make()
    run_id = room.submit()
    await room.emergencies.sound(emergency(leyline.EMERGENCY_LEVEL_CONSERVATIVE))
    assert room.emergencies.clear("", "aired") == [run_id]
    line = room.desk.attach(run_id)
    line.close()
    orders = [order async for order in line.orders()]
    assert [order.kind for order in orders] == [leyline.ORDER_KIND_EMERGENCY, leyline.ORDER_KIND_CLEAR_EMERGENCY]
    assert orders[0].signal_id == "signal-1" and orders[0].triggered_at.seconds > 0


@pytest.mark.req("TOL-34", "TOL-35")
async def test_a_deadline_that_a_hanging_worker_missed_halts_its_run(make: Callable[..., Room]) -> None:
    room = make()
    run_id = room.submit()
    async with room.running():
        pid = await room.pid(run_id)
        directory, watch = room.store.directory(run_id), DeadlineWatch(room.store, room.roster, room.emergencies)
        await watch.look(run_id)
        with RingWriter(directory.deadlines_path) as ring:
            for announced in (
                LAYOUT.pack(True, time.monotonic() - 5.0, 0.0, pid + 1),  # By a worker that is gone.
                LAYOUT.pack(True, time.monotonic() + 60.0, 0.0, pid),
                LAYOUT.pack(False, time.monotonic() - 5.0, 0.0, pid),
            ):
                ring.write(announced)
                await watch.look(run_id)
            assert room.registry.get_sample_value("tolaria_emergency_halts_total") in (None, 0)
            ring.write(LAYOUT.pack(True, time.monotonic() - 5.0, 0.0, pid))
            for _ in range(2):
                await watch.look(run_id)
        room.says(run_id, leyline.RUN_STATE_HALTED)
        await await_until(lambda: ProcessIdentity.of(pid) is None, what="the worker having been ended")
    assert room.registry.get_sample_value("tolaria_emergency_halts_total") == 1


@pytest.mark.req("TOL-6")
async def test_a_level_is_validated_and_can_be_lowered(make: Callable[..., Room]) -> None:
    room = make()
    run_id = room.submit()
    with pytest.raises(ValidationError):
        await room.emergencies.sound(emergency(leyline.EmergencyLevel.ValueType(7)))
    room.emergencies.clear("", "calmer", leyline.EMERGENCY_LEVEL_NOTICE)
    line = room.desk.attach(run_id)
    line.close()
    (order,) = [order async for order in line.orders()]
    assert (order.kind, order.level) == (leyline.ORDER_KIND_CLEAR_EMERGENCY, leyline.EMERGENCY_LEVEL_NOTICE)
