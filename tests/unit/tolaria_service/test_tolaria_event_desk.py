"""Events are followed while they are written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.stack import ProcessIdentity
from support.tolaria_service import spec
from support.waiting import await_until
from tolaria.reporting.events import EventLog
from tolaria.service.bells import Bells
from tolaria.service.events import EventDesk
from tolaria.service.roster import Roster
from tolaria.service.runs import RunStore
from tolaria.service.workers import WorkerProcess


class Followed:
    """A run that is in training, as far as the roster knows, and its journal."""

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(folder)
        self.run_id = self.store.create("request", spec(), spec())
        self.roster, self.bells, self.stopped = Roster(self.store, 1), Bells(), False
        self.roster.enter(self.run_id, WorkerProcess(ProcessIdentity.own()))
        self.desk = EventDesk(self.store, self.roster, self.bells, lambda: self.stopped)
        self.path = self.store.directory(self.run_id).events_path

    def progress(self, *steps: int) -> None:
        log = EventLog(self.path, self.run_id)
        for step in steps:
            log.append(leyline.RunProgress(step=step), step)
        log.close()
        self.bells.ring(self.run_id)

    def end(self) -> None:
        self.roster.leave(self.run_id)
        self.store.retell(self.run_id, leyline.RUN_STATE_HALTED, "Enough.")

    async def collect(self, after: int = 0, *, follow: bool = True) -> list[int]:
        return [event.sequence async for event in self.desk.events(self.run_id, after, follow=follow)]


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


async def test_what_is_there_is_told_and_nothing_awaited(followed: Followed) -> None:
    assert await followed.collect(follow=False) == []
    followed.progress(1, 2, 3)
    assert await followed.collect(follow=False) == [1, 2, 3]
    assert await followed.collect(2, follow=False) == [3]
    assert await followed.collect(9, follow=False) == []


async def test_a_follower_hears_everything_once_and_the_end(followed: Followed) -> None:
    heard: list[int] = []

    async def follow() -> None:
        async for event in followed.desk.events(followed.run_id, 0, follow=True):
            heard.append(event.sequence)

    following = asyncio.create_task(follow())
    for step in range(1, 4):
        followed.progress(step)
        await await_until(lambda: len(heard) >= step, what="the new event")  # noqa: B023
    followed.end()
    async with asyncio.timeout(5):
        await following
    assert heard == [1, 2, 3, 4]


async def test_half_an_event_is_told_when_the_rest_has_come(followed: Followed) -> None:
    followed.progress(1)
    whole = followed.path.stat().st_size
    followed.progress(2)
    written = followed.path.read_bytes()
    os.truncate(followed.path, whole + 7)
    following = asyncio.create_task(followed.collect())
    await asyncio.sleep(0)
    followed.path.write_bytes(written)
    followed.end()
    async with asyncio.timeout(5):
        assert await following == [1, 2, 3]


async def test_a_follower_of_a_waiting_run_is_released_when_the_service_stops(followed: Followed) -> None:
    followed.progress(1)
    following = asyncio.create_task(followed.collect())
    followed.stopped = True
    with pytest.raises(UnavailableError, match="as soon as it is back"):
        async with asyncio.timeout(5):
            await following


async def test_a_bell_that_nobody_rings_costs_only_its_time() -> None:
    bells = Bells()
    assert not await bells.wait("run", 0.001)
    waiting = asyncio.create_task(bells.wait("run", 5))
    await asyncio.sleep(0)
    bells.ring("run")
    assert await waiting
