"""Who trains, who waits, who is started again; with real processes that do nothing in the workers' place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esper_core import leyline
from esper_core.errors import StateConflictError
from esper_core.stack import ProcessIdentity
from support.tolaria_supervised import STUBBORN, Room, kill
from support.waiting import await_until
from tolaria.service.chore_process import Chores
from tolaria.service.completion import Completion
from tolaria.service.steering import Steering


async def test_only_so_many_train_and_the_next_follows(make: Callable[..., Room]) -> None:
    room = make(parallel=1)
    first, second = room.submit(), room.submit()
    async with room.running():
        pid = await room.pid(first)
        assert "1 in training, 0 in front" in room.roster.waiting_for(second)
        room.says(first, leyline.RUN_STATE_COMPLETED)
        kill(pid)
        await room.pid(second)
    assert room.ended("COMPLETED") == 1
    assert not room.roster.busy(first)


async def test_a_dead_worker_is_replaced_until_it_gets_nowhere(make: Callable[..., Room]) -> None:
    room = make(respawns=2)
    run_id, pid = room.submit(), 0
    async with room.running():
        for step in (10, 20, 20, 20):
            pid = await room.pid(run_id, pid)
            room.says(run_id, leyline.RUN_STATE_RUNNING, step)
            kill(pid)
        await await_until(lambda: room.ended("FAILED") == 1, what="the end")
    failed = room.store.status(run_id)
    assert failed.error_code == "ESP-1025"
    assert "died 3 times without getting beyond step 20, last: signal SIGKILL" in failed.reason
    assert "worker.log" in failed.reason


async def test_a_pause_survives_its_worker(make: Callable[..., Room]) -> None:
    room = make()
    run_id = room.submit()
    async with room.running():
        pid = await room.pid(run_id)
        room.says(run_id, leyline.RUN_STATE_PAUSED, 5)
        kill(pid)
        await room.pid(run_id, pid)
    line = room.desk.attach(run_id)
    line.close()
    assert [order.kind async for order in line.orders()] == [leyline.ORDER_KIND_PAUSE]


async def test_a_new_service_takes_up_what_an_old_one_left(make: Callable[..., Room]) -> None:
    old = make(parallel=2)
    alive, dead, waiting, done = (old.submit() for _ in range(4))
    async with old.running():
        for run_id in (alive, dead):
            await old.pid(run_id)
        old.says(alive, leyline.RUN_STATE_RUNNING, 5)
        old.says(dead, leyline.RUN_STATE_RUNNING, 5)
    old.says(done, leyline.RUN_STATE_COMPLETED, 9)
    kill(old.roster.pid(dead))

    new = make(parallel=4)
    new.supervisor.recover()
    assert new.roster.pid(alive) == old.roster.pid(alive)
    assert not new.roster.busy(done)
    assert new.roster.concerned == sorted([alive, dead, waiting])
    async with new.running():
        assert await new.pid(dead) != old.roster.pid(dead)
        with pytest.raises(StateConflictError, match="has it"):
            new.roster.adopt(alive, await new.pid(dead))


async def test_stopping_leaves_nothing_and_every_run_resumable(make: Callable[..., Room]) -> None:
    room = make(code=STUBBORN, parallel=1)
    trained, waiting = room.submit(), room.submit()
    async with room.running():
        pid = await room.pid(trained)
        room.says(trained, leyline.RUN_STATE_RUNNING, 5)
        await room.supervisor.stop()
        assert room.supervisor.stopped
    assert ProcessIdentity.of(pid) is None
    assert room.store.status(trained).state == leyline.RUN_STATE_HALTED
    assert room.store.status(waiting).state == leyline.RUN_STATE_PENDING
    await room.supervisor.revive(trained)
    assert room.store.status(trained).state == leyline.RUN_STATE_PENDING


async def test_a_run_that_waits_is_halted_at_once(make: Callable[..., Room]) -> None:
    room = make()
    run_id = room.submit()
    assert await room.supervisor.drop(run_id, "Not wanted.")
    assert not room.roster.busy(run_id)
    assert room.store.status(run_id).reason == "Not wanted."


async def test_a_damaged_run_is_told_and_keeps_nobody_waiting(make: Callable[..., Room]) -> None:
    room = make()
    damaged, sound = room.submit(), room.submit()
    (room.store.directory(damaged).path / "spec.json").write_text("{}")
    new = make()
    new.supervisor.recover()
    assert new.roster.concerned == [sound]
    steering = Steering(
        new.store,
        new.roster,
        new.supervisor,
        new.desk,
        Completion(Chores(1.0), ()),
        order_timeout_s=1.0,
        halt_timeout_s=1.0,
    )
    states = {status.training_run_id: status for status in await steering.list(10)}
    assert states[sound].state == leyline.RUN_STATE_PENDING
    assert (states[damaged].state, states[damaged].error_code) == (leyline.RUN_STATE_FAILED, "ESP-1009")
