"""Who trains, who waits, who is started again; with real processes that do nothing in the workers' place."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from esper_core.ids import new_ulid
from esper_core.shared_ring import RingWriter
from esper_core.stack import ProcessIdentity
from esper_core.telemetry import Instruments
from support.tolaria_service import spec
from support.waiting import await_until, wait_until
from tolaria.rundir import RunDirectory
from tolaria.safety.deadlines import LAYOUT
from tolaria.service.bells import Bells
from tolaria.service.chore_process import Chores
from tolaria.service.completion import Completion
from tolaria.service.deadlines import DeadlineWatch
from tolaria.service.emergencies import Emergencies, Emergency
from tolaria.service.orders import OrderDesk
from tolaria.service.roster import Roster
from tolaria.service.runs import RunStore
from tolaria.service.steering import Steering
from tolaria.service.supervision import Limits, Supervisor
from tolaria.service.tally import RunTally
from tolaria.service.workers import WorkerProcess

SLEEPER = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"


@dataclass
class Sleepers:
    """Starts processes that wait to be killed."""

    code: str = SLEEPER
    started: list[WorkerProcess] = field(default_factory=list)

    def __call__(self, directory: RunDirectory) -> WorkerProcess:
        handle = subprocess.Popen([sys.executable, "-c", self.code], stdout=subprocess.PIPE, start_new_session=True)
        if "ready" in self.code:
            assert handle.stdout is not None
            handle.stdout.readline()
        identity = ProcessIdentity.of(handle.pid)
        assert identity is not None
        self.started.append(WorkerProcess(identity, handle))
        return self.started[-1]

    def sweep(self) -> None:
        for worker in self.started:
            worker.send(signal.SIGKILL)
            assert worker.handle is not None
            worker.handle.communicate(timeout=10)


class Room:
    """A supervisor with everything around it."""

    def __init__(self, folder: Path, code: str = SLEEPER, parallel: int = 2, respawns: int = 2) -> None:
        self.store = RunStore(folder)
        self.sleepers, self.desk, self.bells = Sleepers(code), OrderDesk(), Bells()
        self.registry = CollectorRegistry()
        self.tally = RunTally(Instruments(self.registry))
        self.roster = Roster(self.store, parallel)
        self.supervisor = Supervisor(
            self.store, self.roster, self.sleepers, self.desk, self.bells, self.tally, Limits(respawns, 0.01, 1.0)
        )
        self.emergencies = Emergencies(self.store, self.roster, self.supervisor, self.desk, self.tally, 0.05)

    def submit(self) -> str:
        run_id = self.store.create(new_ulid(), spec(), spec())
        self.roster.enqueue(run_id)
        return run_id

    def says(self, run_id: str, state: leyline.RunState.ValueType, step: int = 0) -> None:
        """Write a status as the run's worker would."""
        status = self.store.status(run_id)
        status.state, status.progress.step = state, step
        self.store.directory(run_id).write_status(status)

    def ended(self, state: str) -> float:
        return self.registry.get_sample_value("tolaria_runs_finished_total", {"state": state}) or 0.0

    async def pid(self, run_id: str, other_than: int = 0) -> int:
        await await_until(lambda: self.roster.pid(run_id) not in (0, other_than), what="a worker")
        return self.roster.pid(run_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, self.emergencies.close(), return_exceptions=True)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def build(**choices: object) -> Room:
        rooms.append(Room(tmp_path, **choices))  # type: ignore[arg-type]
        return rooms[-1]

    yield build
    for room in rooms:
        room.sleepers.sweep()


def kill(pid: int) -> None:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    identity.send(signal.SIGKILL)
    wait_until(lambda: not identity.is_alive(), 10, what="the death of a worker")


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
