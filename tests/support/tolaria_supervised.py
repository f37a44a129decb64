"""A supervisor of workers in whose place real processes wait to be killed, with everything around it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.ids import new_ulid
from esper_core.stack import ProcessIdentity
from esper_core.telemetry import Instruments
from support.tolaria_service import spec
from support.waiting import await_until, wait_until
from tolaria.rundir import RunDirectory
from tolaria.service.bells import Bells
from tolaria.service.emergencies import Emergencies
from tolaria.service.orders import OrderDesk
from tolaria.service.roster import Roster
from tolaria.service.runs import RunStore
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
        """Kill all of them and see them gone."""
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
        """Take a run in and let it wait for its turn; returns its id."""
        run_id = self.store.create(new_ulid(), spec(), spec())
        self.roster.enqueue(run_id)
        return run_id

    def says(self, run_id: str, state: leyline.RunState.ValueType, step: int = 0) -> None:
        """Write a status as the run's worker would."""
        status = self.store.status(run_id)
        status.state, status.progress.step = state, step
        self.store.directory(run_id).write_status(status)

    def ended(self, state: str) -> float:
        """How many runs were counted as ended in a state."""
        return self.registry.get_sample_value("tolaria_runs_finished_total", {"state": state}) or 0.0

    async def pid(self, run_id: str, other_than: int = 0) -> int:
        """Wait for a run's worker, or for another one than before."""
        await await_until(lambda: self.roster.pid(run_id) not in (0, other_than), what="a worker")
        return self.roster.pid(run_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the supervisor do its work meanwhile."""
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, self.emergencies.close(), return_exceptions=True)


def kill(pid: int) -> None:
    """Kill a worker and see it dead."""
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    identity.send(signal.SIGKILL)
    wait_until(lambda: not identity.is_alive(), 10, what="the death of a worker")
