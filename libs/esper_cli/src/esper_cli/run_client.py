"""Runs as the command line sees them: asked over gRPC, followed over interruptions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from esper_cli.stack_client import StackClient
from esper_core import leyline
from esper_core.errors import (
    OperationCancelledError,
    RunFailedError,
    RunHaltedError,
    StateConflictError,
    TimeoutExceededError,
    UnavailableError,
)
from esper_core.ids import new_ulid
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2, tolaria_pb2_grpc

ENDED: Final = (leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_HALTED, leyline.RUN_STATE_FAILED)
RECONNECT_S: Final = 0.5
PATIENCE_S: Final = 120.0
SUBMIT_S: Final = 75.0  # The trainer opens the task to check it, in a process that has to load torch first.


class RunClient:
    """Talks to Tolaria.

    Parameters
    ----------
    stack : StackClient
        Where Tolaria is.
    """

    def __init__(self, stack: StackClient) -> None:
        self._stack = stack
        self._given_up = threading.Event()

    def submit(self, spec: leyline.RunSpec) -> leyline.RunStatus:
        """Submit a run; a retry of the same submission gives the same run."""
        request = tolaria_pb2.SubmitRunRequest(spec=spec, request_id=new_ulid())
        status: leyline.RunStatus = self._patiently("SubmitRun", request)
        return status

    def status(self, run_id: str) -> leyline.RunStatus:
        """Return a run as it is now."""
        request = tolaria_pb2.GetRunRequest(training_run_id=run_id)
        status: leyline.RunStatus = self._patiently("GetRun", request)
        return status

    def call(self, method: str, request: Any, timeout_s: float = 30.0) -> Any:
        """Call a method of the run service once."""
        with self._stub() as stub:
            return getattr(stub, method)(request, timeout=timeout_s)

    def events(self, run_id: str, after: int = 0) -> Iterator[leyline.RunEvent]:
        """Yield the events of a run until it has ended, across restarts of Tolaria.

        Raises
        ------
        UnavailableError
            If Tolaria stays away for two minutes.
        OperationCancelledError
            If somebody gave up waiting.
        """
        heard = time.monotonic()
        while True:
            try:
                for event in self._watch(run_id, after):
                    after, heard = event.sequence, time.monotonic()
                    yield event
                if self.status(run_id).state in ENDED:
                    return
            except (UnavailableError, TimeoutExceededError):
                if time.monotonic() - heard > PATIENCE_S:
                    raise
            self._pause()

    def give_up(self) -> None:
        """Let whoever follows a run in another thread go as soon as Tolaria is away."""
        self._given_up.set()

    def wait(self, run_id: str) -> leyline.RunStatus:
        """Wait until a run has ended and return its last status."""
        for _ in self.events(run_id):
            pass
        return self.status(run_id)

    def _watch(self, run_id: str, after: int) -> Iterator[leyline.RunEvent]:
        request = tolaria_pb2.WatchRunRequest(training_run_id=run_id, after_sequence=after, follow=True)
        with self._stub() as stub:
            yield from stub.WatchRun(request)

    def _patiently(self, method: str, request: Any, timeout_s: float = 30.0) -> Any:
        # Only for calls that may be repeated: reading, and submitting with a request id.
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.call(method, request, timeout_s)
            except (UnavailableError, TimeoutExceededError):
                if time.monotonic() > deadline:
                    raise
            self._pause()

    def _pause(self) -> None:
        if self._given_up.wait(RECONNECT_S):
            raise OperationCancelledError("Nobody waits for an answer any more.")

    @contextmanager
    def _stub(self) -> Iterator[Any]:
        with self._stack.channel("tolaria") as channel:
            yield tolaria_pb2_grpc.RunServiceStub(channel)


def last_checkpoint(runs: RunClient, run_id: str, otherwise: str) -> str:
    """Return the folder of a run's last good checkpoint.

    Raises
    ------
    StateConflictError
        If it has none; `otherwise` says what that means.
    """
    answer = runs.call("ListCheckpoints", tolaria_pb2.ListCheckpointsRequest(training_run_id=run_id))
    good = [row.checkpoint_id for row in answer.checkpoints if row.good]
    if not good:
        raise StateConflictError(f"Run {run_id} has no good checkpoint, so that {otherwise}.")
    return str(Path(answer.folder) / good[0])


def raise_unless_completed(status: leyline.RunStatus) -> None:
    """Turn a run that did not complete into an error, so that the exit status tells.

    Raises
    ------
    RunFailedError, RunHaltedError
        By how the run ended.
    """
    if status.state == leyline.RUN_STATE_FAILED:
        raise RunFailedError(f"Run {status.training_run_id} failed: {status.reason}")
    if status.state == leyline.RUN_STATE_HALTED:
        raise RunHaltedError(
            f"Run {status.training_run_id} was halted: {status.reason} "
            f"Resume it with `esper run resume {status.training_run_id}`."
        )
