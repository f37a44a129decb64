"""Keeps the processes of a local stack alive: starts them in order, adopts those that live, restarts those that die."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from esper_core.clocks import Clock
from esper_core.errors import NotFoundError
from esper_core.stack import ProcessIdentity, StackPaths, StackRecord
from weatherlight import launch
from weatherlight.backoff import Backoff, BackoffPolicy
from weatherlight.health import HealthBoard
from weatherlight.topology import NODES, SELF, SYSTEM, Node, stop_waves

POLL_S: Final = 0.1
Tell = Callable[[str, str, str], None]
"""Called with an event name, the service and a sentence."""


@dataclass(slots=True)
class Supervisor:
    """The supervisor of one local stack, and the only writer of its record.

    Parameters
    ----------
    paths : StackPaths
        The state folder.
    record : StackRecord
        Addresses of all services, and the processes that lived when the record was written.
    board : HealthBoard
        Health of the services.
    clock : Clock
        Times back-off and silence.
    tell : Tell
        Told about every start, death and crash loop.
    policy : BackoffPolicy
        When to start a dead service again.
    stop_grace_s : float
        Seconds that a service has to end after SIGTERM.
    silence_limit_s : float
        A living service that has not answered for so long is killed and started again.
    """

    paths: StackPaths
    record: StackRecord
    board: HealthBoard
    clock: Clock
    tell: Tell
    policy: BackoffPolicy = field(default_factory=BackoffPolicy)
    stop_grace_s: float = 20.0
    silence_limit_s: float = 30.0
    _handles: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _backoffs: dict[str, Backoff] = field(default_factory=dict)

    async def run(self) -> None:
        """Enter ourselves into the record and keep all services alive until cancelled."""
        self._enter(SELF, ProcessIdentity.own(), again=self.record.services[SELF].pid != 0)
        async with asyncio.TaskGroup() as group:
            for node in SYSTEM:
                group.create_task(self._keep(node), name=f"keeper of {node.name}")

    async def stop(self) -> None:
        """End all services, those that need others first."""
        for wave in stop_waves():
            await asyncio.gather(*(self._end(name) for name in wave))
            for name in wave:
                self._reap(name)

    async def restart(self, name: str) -> None:
        """End a service; its keeper starts it again.

        Raises
        ------
        NotFoundError
            If there is no such service.
        """
        if name not in NODES:
            raise NotFoundError(f"There is no service {name!r}. There are: {', '.join(NODES)}.")
        await self._end(name)

    def crash_looping(self, name: str) -> bool:
        """Return whether a service keeps dying."""
        return name in self._backoffs and self._backoffs[name].crash_looping()

    async def _keep(self, node: Node) -> None:
        backoff = self._backoffs[node.name] = Backoff(self.policy, self.clock, Random(node.name))
        if self._process(node.name) is not None:
            self.tell("service_adopted", node.name, f"{node.name} lives already and was adopted.")
        else:
            await self._start_when_ready(node)
        backoff.started()
        while True:
            await self._until_dead(node.name)
            wait = backoff.died()
            self.tell("service_died", node.name, f"{node.name} died and is started again in {wait:.1f} s.")
            if backoff.crash_looping():
                self.tell("service_crash_loop", node.name, f"{node.name} keeps dying; see {self.paths.log(node.name)}.")
            await asyncio.sleep(wait)
            self._start(node.name, again=True)
            backoff.started()

    async def _start_when_ready(self, node: Node) -> None:
        await self.board.until(lambda: all(self.board.of(name).healthy for name in node.depends_on))
        self._start(node.name)

    def _start(self, name: str, *, again: bool = False) -> None:
        self._reap(name)
        handle, identity = launch.start(name, self.record, self.paths)
        self._handles[name] = handle
        self._enter(name, identity, again=again)
        self.tell("service_started", name, f"{name} was started as process {handle.pid}.")

    def _enter(self, name: str, process: ProcessIdentity | None, *, again: bool) -> None:
        service = self.record.services[name]
        pid, ticks = (process.pid, process.started_ticks) if process is not None else (0, 0)
        service = replace(service, pid=pid, started_ticks=ticks, restarts=service.restarts + again)
        self.record = self.record.with_service(service)
        self.record.save(self.paths.record)

    async def _until_dead(self, name: str) -> None:
        while (process := self._process(name)) is not None:
            self._end_if_silent(name, process)
            await asyncio.sleep(POLL_S)

    def _end_if_silent(self, name: str, process: ProcessIdentity) -> None:
        since = self.board.of(name).silent_since
        if since is None or not NODES[name].grpc:
            return
        if min(self.clock.monotonic() - since, self._age_s(name)) >= self.silence_limit_s:
            self.tell("service_silent", name, f"{name} lives but does not answer; it is killed and started again.")
            process.send(signal.SIGKILL)

    async def _end(self, name: str) -> None:
        process = self._process(name)
        if process is not None:
            process.send(signal.SIGTERM)
            await self._gone(process, self.stop_grace_s)
            process.send(signal.SIGKILL)

    def _age_s(self, name: str) -> float:
        return self._backoffs[name].age_s()

    def _process(self, name: str) -> ProcessIdentity | None:
        if name in self._handles:
            self._handles[name].poll()
        process = self.record.services[name].process
        return process if process is not None and process.is_alive() else None

    def _reap(self, name: str) -> None:
        handle = self._handles.pop(name, None)
        if handle is not None and handle.poll() is None:
            handle.wait()

    async def _gone(self, process: ProcessIdentity, within_s: float) -> None:
        deadline = self.clock.monotonic() + within_s
        while process.is_alive() and self.clock.monotonic() < deadline:
            for handle in self._handles.values():
                handle.poll()
            await asyncio.sleep(POLL_S / 2)
