"""Tolaria as a process for tests, with the run service at hand and small runs to submit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.ids import new_ulid
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc
from esper_core.rpc import EsperChannel, mapped_errors, open_channel
from esper_core.security import Keyring, TokenSource
from esper_core.stack import ProcessIdentity
from support.service_process import ServiceProcess
from support.waiting import await_until, wait_until

ENDED = (leyline.RUN_STATE_HALTED, leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_FAILED)
LONG_STEPS = 10_000_000
QUICK = {
    "TOLARIA_STATUS_INTERVAL_S": "0.2",
    "TOLARIA_CHECKPOINT_INTERVAL_S": "0.5",
    "TOLARIA_CHECKPOINT_SPACING_S": "0.2",
}


def spec(steps: int = 60, **changes: Any) -> leyline.RunSpec:
    """A static run of Letter."""
    given: dict[str, Any] = {"version": 1, "task": "letter", "max_steps": steps, "random_seed": 5, **changes}
    return leyline.RunSpec(**given)


@dataclass(slots=True)
class TolariaProcess:
    """Tolaria, its keys and its data folder."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    keyring: Keyring = field(default_factory=Keyring.generate)
    service: ServiceProcess = field(init=False)

    def __post_init__(self) -> None:
        self.keyring.save(self.folder / "keyring.json")
        environment = {**QUICK, **self.settings}
        self.service = ServiceProcess("tolaria", self.folder, self.folder / "keyring.json", environment)

    def run_folder(self, run_id: str) -> Path:
        """Folder of a run."""
        return self.folder / "tolaria" / "runs" / run_id

    def worker_log(self, run_id: str) -> str:
        """Everything the workers of a run have printed."""
        path = self.run_folder(run_id) / "worker.log"
        return path.read_text() if path.exists() else ""

    def workers(self) -> list[ProcessIdentity]:
        """Every living worker below the data folder, whoever started it."""
        mark = str(self.folder / "tolaria" / "runs").encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and mark in _command_of(entry):
                found.append(ProcessIdentity.of(int(entry.name)))
        return [identity for identity in found if identity is not None]

    def sweep(self) -> None:
        """Leave nothing behind."""
        self.service.kill()
        for worker in self.workers():
            worker.send(signal.SIGKILL)
        wait_until(lambda: not self.workers(), 5.0, what="all workers being gone")

    def channel(self, subject: str = "test", role: Any = "operator") -> EsperChannel:
        """Open a channel."""
        return open_channel(self.service.address, TokenSource(self.keyring, subject, role), subject)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[RunClient]:
        """A client of the run service."""
        async with self.channel() as channel:
            yield RunClient(tolaria_pb2_grpc.RunServiceStub(channel))


def _command_of(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


@dataclass(slots=True)
class RunClient:
    """Calls of the run service as tests want them; errors are Esper's own."""

    stub: Any

    async def call(self, method: str, request: Any, timeout_s: float = 60.0) -> Any:
        """Call once."""
        with mapped_errors("tolaria"):
            return await getattr(self.stub, method)(request, timeout=timeout_s)

    async def submit(self, wanted: leyline.RunSpec, request_id: str = "") -> str:
        """Submit and return the id of the run."""
        request = tolaria_pb2.SubmitRunRequest(spec=wanted, request_id=request_id or new_ulid())
        status: leyline.RunStatus = await self.call("SubmitRun", request)
        return status.training_run_id

    async def status(self, run_id: str) -> leyline.RunStatus:
        """Ask for a run."""
        answer: leyline.RunStatus = await self.call("GetRun", tolaria_pb2.GetRunRequest(training_run_id=run_id))
        return answer

    async def until(
        self, run_id: str, holds: Callable[[leyline.RunStatus], bool], deadline_s: float = 60.0
    ) -> leyline.RunStatus:
        """Ask until the status is as wanted, over restarts of the service."""
        last = leyline.RunStatus()

        async def look() -> bool:
            nonlocal last
            try:
                last = await self.status(run_id)
            except UnavailableError:
                return False
            return holds(last)

        predicate: Callable[[], bool | Awaitable[bool]] = look
        try:
            await await_until(predicate, deadline_s, what=f"the wanted status of run {run_id}", poll_s=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{last}") from error
        return last

    async def ended(self, run_id: str, deadline_s: float = 60.0) -> leyline.RunStatus:
        """Wait for the end of a run."""
        return await self.until(run_id, lambda status: status.state in ENDED, deadline_s)

    async def at_step(self, run_id: str, step: int) -> leyline.RunStatus:
        """Wait until a run has come so far."""
        return await self.until(run_id, lambda status: status.progress.step >= step)

    async def events(self, run_id: str, after: int = 0, *, follow: bool = False) -> list[leyline.RunEvent]:
        """Collect the events of a run."""
        request = tolaria_pb2.WatchRunRequest(training_run_id=run_id, after_sequence=after, follow=follow)
        async with asyncio.timeout(60):
            with mapped_errors("tolaria"):
                return [event async for event in self.stub.WatchRun(request)]


def kill_process(pid: int) -> None:
    """End a process as a crash would; 0 would mean this whole process group."""
    assert pid > 0, "there is no process to kill"
    os.kill(pid, signal.SIGKILL)
