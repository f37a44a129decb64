"""Who works on which run: living workers, runs that are started again soon, runs that wait for their turn."""

from __future__ import annotations

import signal
from collections import deque

from esper_core.errors import StateConflictError
from tolaria.service.launches import LaunchRecord
from tolaria.service.runs import RunStore
from tolaria.service.workers import WorkerProcess, worker_of


class Roster:
    """The roster. Lives on one event loop; a run stands in at most one of its three places.

    Parameters
    ----------
    store : RunStore
        The runs.
    parallel : int
        Runs that may train at a time.
    """

    def __init__(self, store: RunStore, parallel: int) -> None:
        self._store = store
        self._parallel = parallel
        self._workers: dict[str, WorkerProcess] = {}
        self._respawns: dict[str, float] = {}
        self._queue: deque[str] = deque()

    @property
    def working(self) -> list[str]:
        """Runs with a worker."""
        return list(self._workers)

    @property
    def dead(self) -> list[str]:
        """Runs whose worker has died and was not removed yet."""
        return [run_id for run_id, worker in self._workers.items() if not worker.is_alive()]

    @property
    def concerned(self) -> list[str]:
        """Runs that have a worker or will get one, oldest first."""
        return sorted({*self._workers, *self._respawns, *self._queue})

    def busy(self, run_id: str) -> bool:
        """Say whether a run has a worker or will get one."""
        return run_id in self._workers or run_id in self._respawns or run_id in self._queue

    def has_worker(self, run_id: str) -> bool:
        """Say whether a run has a worker, if only one whose death was not noted yet."""
        return run_id in self._workers

    def pid(self, run_id: str) -> int:
        """Return the process id of a run's worker, 0 when none lives."""
        worker = self._workers.get(run_id)
        return worker.identity.pid if worker is not None and worker.is_alive() else 0

    def waiting_for(self, run_id: str) -> str:
        """Return what a run without a worker waits for, as a sentence; empty when it does not wait."""
        if run_id in self._respawns:
            return "Its worker died and is started again."
        if run_id in self._queue:
            before = self._queue.index(run_id)
            return f"Waiting for a free place: {len(self._workers)} in training, {before} in front of it."
        return ""

    def enqueue(self, run_id: str, *, first: bool = False) -> None:
        """Let a run wait for its turn; one that is busy already stays as it is."""
        if not self.busy(run_id):
            (self._queue.appendleft if first else self._queue.append)(run_id)

    def respawn_at(self, run_id: str, due_s: float) -> None:
        """Have a run started again at a monotonic time; it keeps its place until then."""
        self._respawns[run_id] = due_s

    def due(self, now_s: float) -> list[str]:
        """Take the runs whose time to be started has come."""
        found = [run_id for run_id, due_s in self._respawns.items() if due_s <= now_s]
        for run_id in found:
            del self._respawns[run_id]
        while self._queue and len(self._workers) + len(self._respawns) + len(found) < self._parallel:
            found.append(self._queue.popleft())
        return found

    def enter(self, run_id: str, worker: WorkerProcess) -> None:
        """Take a worker as the one of its run, also for a later service."""
        self.leave(run_id)
        self._workers[run_id] = worker
        folder = self._store.directory(run_id).path
        LaunchRecord.load(folder).started(worker.identity).save(folder)

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
        self.enter(run_id, worker)

    def leave(self, run_id: str) -> WorkerProcess | None:
        """Forget a run; returns the worker that it had."""
        self._respawns.pop(run_id, None)
        if run_id in self._queue:
            self._queue.remove(run_id)
        return self._workers.pop(run_id, None)

    def waiting_respawns(self) -> list[str]:
        """Take the runs that were to be started again."""
        found = list(self._respawns)
        self._respawns.clear()
        return found

    def send(self, run_id: str, which: signal.Signals) -> None:
        """Send a signal to the worker of a run, if it has one."""
        if run_id in self._workers:
            self._workers[run_id].send(which)
