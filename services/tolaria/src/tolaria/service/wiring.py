"""Putting the service together."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import Final, Self

from esper_core.files import FileLock, ensure_directory
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2_grpc
from esper_core.rpc import ServerConfig, ServerHost
from esper_core.security import Keyring
from esper_core.telemetry import Instruments
from tolaria.service.bells import Bells
from tolaria.service.chore_process import Chores
from tolaria.service.completion import Completion
from tolaria.service.deadlines import DeadlineWatch
from tolaria.service.emergencies import Emergencies
from tolaria.service.events import EventDesk
from tolaria.service.link import WorkerLinkServicer
from tolaria.service.orders import OrderDesk
from tolaria.service.roster import Roster
from tolaria.service.runs import RunStore
from tolaria.service.servicer import RunRooms, RunServicer
from tolaria.service.steering import Steering
from tolaria.service.supervision import Limits, Supervisor
from tolaria.service.tally import RunTally
from tolaria.service.workers import WorkerLauncher
from tolaria.settings import TolariaSettings

RUN_SERVICE: Final = "esper.tolaria.v1.RunService"
WORKER_LINK: Final = "esper.tolaria.v1.WorkerLink"
READ_ONLY: Final = ("GetRun", "ListRuns", "WatchRun", "ListCheckpoints")
TALLY_S: Final = 2.0
_AFTER_KILL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Wiring:
    """The parts that live as long as the service."""

    host: ServerHost
    store: RunStore
    roster: Roster
    supervisor: Supervisor
    emergencies: Emergencies
    deadlines: DeadlineWatch
    completion: Completion
    tally: RunTally
    lock: FileLock

    @classmethod
    def of(cls, settings: TolariaSettings) -> Self:
        """Build everything; nothing runs yet.

        Raises
        ------
        StateFolderInUseError
            If another Tolaria has the data folder.
        """
        lock = FileLock(ensure_directory(settings.data_dir) / "tolaria.lock")
        lock.acquire()
        host = _host(settings)
        store, desk, bells = RunStore(settings.data_dir), OrderDesk(), Bells()
        tally = RunTally(Instruments(host.registry))
        launcher = WorkerLauncher(lambda: host.address, dict(os.environ))
        roster = Roster(store, settings.max_parallel_runs)
        supervisor = Supervisor(store, roster, launcher, desk, bells, tally, _limits(settings))
        emergencies = Emergencies(store, roster, supervisor, desk, tally, settings.order_timeout_s)
        deadlines = DeadlineWatch(store, roster, emergencies)
        chores = Chores(settings.chore_timeout_s)
        completion = Completion(chores, settings.allowed_tasks)
        steering = Steering(
            store,
            roster,
            supervisor,
            desk,
            completion,
            order_timeout_s=settings.order_timeout_s,
            halt_timeout_s=settings.halt_timeout_s,
        )
        rooms = RunRooms(
            store,
            steering,
            EventDesk(store, roster, bells, lambda: supervisor.stopped),
            emergencies,
            chores,
            settings.allowed_tasks,
        )
        host.add(
            RunServicer(rooms),
            tolaria_pb2_grpc.add_RunServiceServicer_to_server,
            RUN_SERVICE,
            read_only_methods=READ_ONLY,
            validate_requests=True,
        )
        host.add(
            WorkerLinkServicer(roster, desk, bells),
            tolaria_pb2_grpc.add_WorkerLinkServicer_to_server,
            WORKER_LINK,
            service_only_methods=("Attach",),
        )
        return cls(host, store, roster, supervisor, emergencies, deadlines, completion, tally, lock)

    async def serve(self) -> None:
        """Take up the runs that are there and serve until stopped."""
        self.supervisor.recover()
        self.host.run_in_background("watch over workers", self.supervisor.run)
        self.host.run_in_background("watch over deadlines", self.deadlines.run)
        self.host.run_in_background("halt workers at the end", self._halt_at_the_end)
        self.host.run_in_background("count runs", self._count)
        self.host.on_shutdown(self.supervisor.stop)
        self.host.on_shutdown(self.emergencies.close)
        try:
            await self.host.run_until_stopped()
        finally:
            self.lock.release()

    async def _halt_at_the_end(self) -> None:
        """Begin while the lines to the workers are still open: the drain leaves them so for the time of the halt."""
        await self.host.draining.wait()
        await self.completion.close()
        await self.supervisor.stop()

    async def _count(self) -> None:
        while True:
            states = [(await asyncio.to_thread(self.store.status, run_id)).state for run_id in self.roster.concerned]
            self.tally.active(states)
            await asyncio.sleep(TALLY_S)


def _host(settings: TolariaSettings) -> ServerHost:
    """Build the host; its drain waits for the workers, which answer over streams that it would else cut at once."""
    longest_s = settings.stop_grace_s + _AFTER_KILL_S
    config = replace(
        ServerConfig.from_settings(settings),
        stream_grace_s=longest_s,
        shutdown_grace_s=longest_s,
        hook_timeout_s=longest_s,
        max_unary_s=settings.chore_timeout_s + settings.halt_timeout_s,
    )
    return ServerHost("tolaria", settings.listen, Keyring.load(settings.keyring_file), config)


def _limits(settings: TolariaSettings) -> Limits:
    return Limits(
        respawns=settings.respawn_limit,
        pause_s=settings.respawn_pause_s,
        stop_grace_s=settings.stop_grace_s,
    )
