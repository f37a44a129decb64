"""Keeps runs going: so many at a time, the others in a queue; what dies is started again, unless it gets nowhere."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError, StateFolderInUseError, WorkerCrashedError
from esper_core.logs import get_logger
from tolaria.service.bells import Bells
from tolaria.service.launches import LaunchRecord
from tolaria.service.orders import OrderDesk, new_order
from tolaria.service.roster import Roster
from tolaria.service.runs import ENDED, RunStore, state_word
from tolaria.service.tally import RunTally
from tolaria.service.workers import Launcher, find_living

POLL_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_KILL_WAIT_S: Final = 3.0
_STOPPED: Final = "Stopped together with Tolaria; it goes on from its last checkpoint when it is resumed."
_log = get_logger("supervision")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a supervisor allows.

    Attributes
    ----------
    respawns : int
        Starts in a row without a further step, after which a run fails.
    pause_s : float
        Pause before a dead worker is started again; doubles while it gets no further.
    stop_grace_s : float
        Time to halt when the service stops.
    """

    respawns: int
    pause_s: float
    stop_grace_s: float


class Supervisor:
    """Starts workers, notes their deaths, and brings all of them down at the end. Lives on one event loop.

    Parameters
    ----------
    store : RunStore
        The runs.
    roster : Roster
        Who works on them.
    launch : Launcher
        Starts workers.
    desk : OrderDesk
        Orders to them.
    bells : Bells
        Rung when something happened to a run.
    tally : RunTally
        Counts runs for the metrics.
    limits : Limits
        What is allowed.
    """

    def __init__(
        self,
        store: RunStore,
        roster: Roster,
        launch: Launcher,
        desk: OrderDesk,
        bells: Bells,
        tally: RunTally,
        limits: Limits,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._roster = roster
        self._launch = launch
        self._desk = desk
        self._bells = bells
        self._tally = tally
        self._limits = limits
        self._clock = clock
        self._stopping: asyncio.Task[None] | None = None

    @property
    def stopped(self) -> bool:
        """Whether every worker was brought to its end."""
        return self._stopping is not None and self._stopping.done()

    def recover(self) -> None:
        """Take up where an earlier service stopped: adopt what lives, start again what died, queue what waits."""
        for run_id in reversed(self._store.ids()):
            try:
                self._take_up(run_id)
            except EsperError as error:
                _log.error("a run cannot be taken up", run_id=run_id, code=error.code, reason=error.message)

    async def run(self) -> None:
        """Watch over the workers until cancelled."""
        while True:
            if self._stopping is None:
                for run_id in self._roster.dead:
                    await self._guarded(run_id, self._died(run_id))
                for run_id in self._roster.due(self._clock.monotonic()):
                    await self._guarded(run_id, self._start(run_id))
            await asyncio.sleep(POLL_S)

    async def drop(self, run_id: str, reason: str) -> bool:
        """Halt a run that has no worker yet; False when it has one and must be told instead."""
        if self._roster.has_worker(run_id):
            return False
        self._roster.leave(run_id)
        await self._settle(run_id, leyline.RUN_STATE_HALTED, reason)
        return True

    async def revive(self, run_id: str) -> None:
        """Queue a halted run again; earlier deaths are forgiven."""
        folder = self._store.directory(run_id).path
        LaunchRecord.load(folder).resumed().save(folder)
        await asyncio.to_thread(self._store.retell, run_id, leyline.RUN_STATE_PENDING, "Resumed by order.")
        self._roster.enqueue(run_id)
        self._bells.ring(run_id)

    async def stop(self, reason: str = "Tolaria was stopped.") -> None:
        """Halt all workers with a checkpoint, and end those that do not obey in time; nothing is left afterwards."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._bring_down(reason), name="bring workers down")
        await asyncio.shield(self._stopping)

    def _take_up(self, run_id: str) -> None:
        directory, status = self._store.directory(run_id), self._store.status(run_id)
        launch = LaunchRecord.load(directory.path)
        worker = find_living(directory, launch)
        if worker is not None:
            _log.info("a living worker was adopted", run_id=run_id, pid=worker.identity.pid)
            self._roster.enter(run_id, worker)
        elif status.state == leyline.RUN_STATE_PENDING:
            self._roster.enqueue(run_id)
        elif status.state not in ENDED:
            _log.info("a run without a worker is resumed", run_id=run_id, state=state_word(status.state))
            self._note_death(run_id, status)
            self._roster.enqueue(run_id, first=True)

    async def _guarded(self, run_id: str, work: Awaitable[None]) -> None:
        """Keep the trouble of one run from the others."""
        try:
            await work
        except EsperError as error:
            _log.error("a run cannot be looked after", run_id=run_id, code=error.code, reason=error.message)

    async def _start(self, run_id: str) -> None:
        directory = self._store.directory(run_id)
        try:
            worker = find_living(directory, LaunchRecord.load(directory.path)) or self._launch(directory)
        except EsperError as error:
            await self._crashed(run_id, error.message)
            return
        self._roster.enter(run_id, worker)
        _log.info("a worker was started", run_id=run_id, pid=worker.identity.pid)

    async def _died(self, run_id: str) -> None:
        worker = self._roster.leave(run_id)
        status = await asyncio.to_thread(self._store.status, run_id)
        if status.state in ENDED:
            _log.info("a run has ended", run_id=run_id, state=state_word(status.state), reason=status.reason)
            self._say_over(run_id, status.state, status.reason)
        elif self._stopping is not None:
            await self._settle(run_id, leyline.RUN_STATE_HALTED, _STOPPED)
        else:
            await self._crashed(run_id, worker.last_words if worker is not None else "it is gone")

    async def _crashed(self, run_id: str, how: str) -> None:
        status = await asyncio.to_thread(self._store.status, run_id)
        launch, step = self._note_death(run_id, status), status.progress.step
        _log.warning("a worker died", run_id=run_id, how=how, step=step, stalled=launch.stalled)
        if launch.stalled >= self._limits.respawns:
            times = launch.stalled + 1
            await self._give_up(
                run_id, f"Its worker died {times} times without getting beyond step {step}, last: {how}."
            )
            return
        pause_s = min(_LONGEST_PAUSE_S, self._limits.pause_s * 2.0**launch.stalled)
        self._roster.respawn_at(run_id, self._clock.monotonic() + pause_s)
        self._bells.ring(run_id)

    def _note_death(self, run_id: str, status: leyline.RunStatus) -> LaunchRecord:
        folder = self._store.directory(run_id).path
        noted = LaunchRecord.load(folder).died(status.progress.step)
        noted.save(folder)
        if status.state == leyline.RUN_STATE_PAUSED:
            # The pause lives in the worker's memory only; the next worker has to be told.
            self._desk.give(run_id, new_order(leyline.ORDER_KIND_PAUSE, status.reason))
        return noted

    async def _give_up(self, run_id: str, how: str) -> None:
        reason = f"{how} Look into {self._store.directory(run_id).log_path}."
        try:
            await self._settle(run_id, leyline.RUN_STATE_FAILED, reason, WorkerCrashedError.code)
        except StateFolderInUseError as error:
            # Somebody started a worker by hand; it has the run and is not ours to deny.
            self._roster.adopt(run_id, int(error.details["pid"]))

    async def _settle(self, run_id: str, state: leyline.RunState.ValueType, reason: str, error_code: str = "") -> None:
        await asyncio.to_thread(self._store.retell, run_id, state, reason, error_code)
        _log.info("a run was ended", run_id=run_id, state=state_word(state), reason=reason)
        self._say_over(run_id, state, reason)

    def _say_over(self, run_id: str, state: int, reason: str) -> None:
        self._tally.ended(state)
        self._desk.over(run_id, reason)
        self._bells.ring(run_id)

    async def _bring_down(self, reason: str) -> None:
        for run_id in self._roster.waiting_respawns():
            await self._guarded(run_id, self._settle(run_id, leyline.RUN_STATE_HALTED, _STOPPED))
        for run_id in self._roster.working:
            if self._desk.connected(run_id):
                self._desk.give(run_id, new_order(leyline.ORDER_KIND_HALT, reason))
            else:
                self._roster.send(run_id, signal.SIGTERM)
        half_s = self._limits.stop_grace_s / 2
        for which, within_s in ((signal.SIGTERM, half_s), (signal.SIGKILL, half_s), (None, _KILL_WAIT_S)):
            if await self._all_gone(within_s) or which is None:
                return
            _log.warning("workers did not halt in time", runs=self._roster.working, told=which.name)
            for run_id in self._roster.working:
                self._roster.send(run_id, which)

    async def _all_gone(self, within_s: float) -> bool:
        deadline = self._clock.monotonic() + within_s
        while True:
            for run_id in self._roster.dead:
                await self._guarded(run_id, self._died(run_id))
            if not self._roster.working or self._clock.monotonic() >= deadline:
                return not self._roster.working
            await asyncio.sleep(POLL_S / 2)
