"""Keeps runs going: so many at a time, the others in a queue; what dies is started again, unless it gets nowhere."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError, StateConflictError, StateFolderInUseError, WorkerCrashedError
from esper_core.logs import get_logger
from tolaria.service.bells import Bells
from tolaria.service.launches import LaunchRecord
from tolaria.service.orders import OrderDesk, new_order
from tolaria.service.runs import ENDED, RunStore, state_word
from tolaria.service.tally import RunTally
from tolaria.service.workers import Launcher, WorkerProcess, find_living, worker_of

POLL_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_KILL_WAIT_S: Final = 3.0
_log = get_logger("supervision")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a supervisor allows.

    Attributes
    ----------
    parallel : int
        Runs that train at a time.
    respawns : int
        Starts in a row without a further step, after which a run fails.
    pause_s : float
        Pause before a dead worker is started again; doubles while it gets no further.
    stop_grace_s : float
        Time to halt when the service stops.
    """

    parallel: int
    respawns: int
    pause_s: float
    stop_grace_s: float


class Supervisor:
    """Knows which runs have a worker. Lives on one event loop.

    Parameters
    ----------
    store : RunStore
        The runs.
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
        launch: Launcher,
        desk: OrderDesk,
        bells: Bells,
        tally: RunTally,
        limits: Limits,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._launch = launch
        self._desk = desk
        self._bells = bells
        self._tally = tally
        self._limits = limits
        self._clock = clock
        self._workers: dict[str, WorkerProcess] = {}
        self._respawns: dict[str, float] = {}
        self._queue: deque[str] = deque()
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
            await self._look()
            await asyncio.sleep(POLL_S)

    def enqueue(self, run_id: str) -> None:
        """Let a run wait for its turn; one that waits or trains already stays as it is."""
        if not self.busy(run_id):
            self._queue.append(run_id)

    def busy(self, run_id: str) -> bool:
        """Say whether a run has a worker or will get one."""
        return run_id in self._workers or run_id in self._respawns or run_id in self._queue

    def pid(self, run_id: str) -> int:
        """Return the process id of a run's worker, 0 when none lives."""
        worker = self._workers.get(run_id)
        return worker.identity.pid if worker is not None and worker.is_alive() else 0

    def waiting_for(self, run_id: str) -> str:
        """Return what a run without a worker waits for, as a sentence; empty when it does not wait."""
        if run_id in self._respawns:
            return "Its worker died and is started again."
        if run_id in self._queue:
            place = self._queue.index(run_id)
            return f"Waiting for a free place: {len(self._workers)} runs are in training, {place} wait before it."
        return ""

    def adopt(self, run_id: str, pid: int) -> None:
        """Take a worker that has connected as the one of its run.

        Raises
        ------
        NotFoundError
            If there is no such run.
        StateConflictError
            If another worker of the run lives, or the process doesn't.
        """
        self._store.directory(run_id)
        present = self.pid(run_id)
        if present == pid:
            return
        worker = worker_of(pid)
        if present or worker is None:
            other = f"process {present} has it" if present else f"process {pid} does not live on this machine"
            raise StateConflictError(f"Process {pid} cannot work on run {run_id}: {other}.")
        self._take_over(run_id, worker)

    async def drop(self, run_id: str, reason: str) -> bool:
        """Halt a run that has no worker yet; False when it has one and must be told instead."""
        if run_id in self._workers:
            return False
        if run_id in self._queue:
            self._queue.remove(run_id)
        self._respawns.pop(run_id, None)
        await asyncio.to_thread(self._store.retell, run_id, leyline.RUN_STATE_HALTED, reason)
        self._bells.ring(run_id)
        return True

    async def revive(self, run_id: str) -> None:
        """Queue a halted run again."""
        folder = self._store.directory(run_id).path
        LaunchRecord.load(folder).resumed().save(folder)
        await asyncio.to_thread(self._store.retell, run_id, leyline.RUN_STATE_PENDING, "Resumed by order.")
        self.enqueue(run_id)
        self._bells.ring(run_id)

    def terminate(self, run_id: str) -> None:
        """Ask a worker that cannot be reached by an order to halt."""
        if run_id in self._workers:
            self._workers[run_id].send(signal.SIGTERM)

    def trained(self) -> list[str]:
        """Return the runs that have a worker or will get one, oldest first."""
        return sorted({*self._workers, *self._respawns, *self._queue})

    async def stop(self, reason: str = "Tolaria was stopped.") -> None:
        """Halt all workers with a checkpoint, and end those that do not obey in time; nothing is left afterwards."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._bring_down(reason), name="bring workers down")
        await asyncio.shield(self._stopping)

    async def _look(self) -> None:
        if self._stopping is not None:
            return
        for run_id in [name for name, worker in self._workers.items() if not worker.is_alive()]:
            await self._died(run_id)
        now = self._clock.monotonic()
        for run_id in [name for name, due in self._respawns.items() if due <= now]:
            del self._respawns[run_id]
            await self._start(run_id)
        while self._queue and len(self._workers) + len(self._respawns) < self._limits.parallel:
            await self._start(self._queue.popleft())

    def _take_up(self, run_id: str) -> None:
        directory, status = self._store.directory(run_id), self._store.status(run_id)
        launch = LaunchRecord.load(directory.path)
        worker = find_living(directory, launch)
        if worker is not None:
            _log.info("a living worker was adopted", run_id=run_id, pid=worker.identity.pid)
            self._take_over(run_id, worker)
        elif status.state == leyline.RUN_STATE_PENDING:
            self.enqueue(run_id)
        elif status.state not in ENDED:
            _log.info("a run without a worker is resumed", run_id=run_id, state=state_word(status.state))
            self._note_death(run_id, launch, status)
            self._queue.appendleft(run_id)

    def _take_over(self, run_id: str, worker: WorkerProcess) -> None:
        self._workers[run_id] = worker
        self._respawns.pop(run_id, None)
        if run_id in self._queue:
            self._queue.remove(run_id)
        folder = self._store.directory(run_id).path
        LaunchRecord.load(folder).started(worker.identity).save(folder)

    async def _start(self, run_id: str) -> None:
        directory = self._store.directory(run_id)
        try:
            worker = find_living(directory, LaunchRecord.load(directory.path)) or self._launch(directory)
        except EsperError as error:
            _log.error("a worker could not be started", run_id=run_id, code=error.code, reason=error.message)
            await self._crashed(run_id, error.message)
            return
        self._take_over(run_id, worker)
        _log.info("a worker was started", run_id=run_id, pid=worker.identity.pid)

    async def _died(self, run_id: str) -> None:
        worker = self._workers.pop(run_id)
        status = await asyncio.to_thread(self._store.status, run_id)
        if status.state in ENDED:
            _log.info("a run has ended", run_id=run_id, state=state_word(status.state), reason=status.reason)
            self._tally.ended(status.state)
            self._desk.over(run_id, status.reason)
            self._bells.ring(run_id)
        elif self._stopping is None:
            await self._crashed(run_id, worker.last_words)
        else:
            await self._leave_resumable(run_id)

    async def _crashed(self, run_id: str, how: str) -> None:
        directory = self._store.directory(run_id)
        status = await asyncio.to_thread(self._store.status, run_id)
        launch = self._note_death(run_id, LaunchRecord.load(directory.path), status)
        step = status.progress.step
        _log.warning("a worker died", run_id=run_id, how=how, step=step, stalled=launch.stalled)
        if launch.stalled >= self._limits.respawns:
            times = launch.stalled + 1
            await self._give_up(
                run_id, f"Its worker died {times} times without getting beyond step {step}, last: {how}."
            )
            return
        pause_s = min(_LONGEST_PAUSE_S, self._limits.pause_s * 2.0**launch.stalled)
        self._respawns[run_id] = self._clock.monotonic() + pause_s
        self._bells.ring(run_id)

    def _note_death(self, run_id: str, launch: LaunchRecord, status: leyline.RunStatus) -> LaunchRecord:
        folder = self._store.directory(run_id).path
        noted = launch.died(status.progress.step)
        noted.save(folder)
        if status.state == leyline.RUN_STATE_PAUSED:
            # The pause lives in the worker's memory only; the next worker has to be told.
            self._desk.give(run_id, new_order(leyline.ORDER_KIND_PAUSE, status.reason))
        return noted

    async def _give_up(self, run_id: str, how: str) -> None:
        reason = f"{how} Look into {self._store.directory(run_id).log_path}."
        try:
            await asyncio.to_thread(
                self._store.retell, run_id, leyline.RUN_STATE_FAILED, reason, WorkerCrashedError.code
            )
        except StateFolderInUseError as error:
            self.adopt(run_id, int(error.details["pid"]))
            return
        _log.error("a run was given up", run_id=run_id, reason=reason)
        self._tally.ended(leyline.RUN_STATE_FAILED)
        self._desk.over(run_id, reason)
        self._bells.ring(run_id)

    async def _bring_down(self, reason: str) -> None:
        while self._respawns:
            await self._leave_resumable(self._respawns.popitem()[0])
        for run_id in self._workers:
            if self._desk.connected(run_id):
                self._desk.give(run_id, new_order(leyline.ORDER_KIND_HALT, reason))
            else:
                self.terminate(run_id)
        grace_s = self._limits.stop_grace_s
        if not await self._all_gone(grace_s / 2):
            self._signal_all(signal.SIGTERM)
        if not await self._all_gone(grace_s / 2):
            _log.warning("workers did not halt in time and are killed", runs=sorted(self._workers))
            self._signal_all(signal.SIGKILL)
            await self._all_gone(_KILL_WAIT_S)

    async def _all_gone(self, within_s: float) -> bool:
        deadline = self._clock.monotonic() + within_s
        while self._clock.monotonic() < deadline:
            for run_id in [name for name, worker in self._workers.items() if not worker.is_alive()]:
                await self._died(run_id)
            if not self._workers:
                return True
            await asyncio.sleep(POLL_S / 2)
        return not self._workers

    def _signal_all(self, which: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.send(which)

    async def _leave_resumable(self, run_id: str) -> None:
        """Say HALTED for a worker that ended without having said so itself."""
        reason = "Stopped together with Tolaria; it goes on from its last checkpoint when it is resumed."
        await asyncio.to_thread(self._store.retell, run_id, leyline.RUN_STATE_HALTED, reason)
        self._desk.over(run_id, reason)
        self._bells.ring(run_id)
