"""The status board: what is known about the run now, put together by both threads, read as one RunStatus."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_duration, to_timestamp
from tolaria.rundir import RunRequest


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run has come; None where nothing was measured yet."""

    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    fraction: float = 0.0
    loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    bits_per_character: float | None = None
    distillation_loss: float | None = None
    flops_used: int = 0
    parameters: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class _Facts:
    state: int = leyline.RUN_STATE_PENDING
    reason: str = "Starting."
    error_code: str = ""
    progress: Progress = field(default_factory=Progress)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: leyline.RunResult | None = None


class StatusBoard:
    """Thread-safe collection of facts about a run.

    Parameters
    ----------
    request : RunRequest
        What was asked for.
    pid : int
        Process id of the worker.
    earlier_s : float
        Wall time that earlier starts of this run took, in seconds.
    """

    def __init__(self, request: RunRequest, pid: int, *, earlier_s: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._request = request
        self._pid = pid
        self._clock = clock
        self._lock = threading.Lock()
        self._facts = _Facts()
        self._seeds: Mapping[str, leyline.SeedState] = {}
        self._earlier_s = earlier_s
        self._began_s = clock.monotonic()
        self._first_step = 0
        self._trained_since_s = self._began_s
        self._connected: frozenset[str] = frozenset()
        self.wanted = False

    @property
    def state(self) -> int:
        """State of the run, a value of RunState."""
        return self._facts.state

    @property
    def elapsed_s(self) -> float:
        """Wall time over all starts."""
        return self._earlier_s + self._clock.monotonic() - self._began_s

    def started(self, at: datetime, earlier_s: float, first_step: int) -> None:
        """Take note of the first start of the run, the time it has taken already, and where this start begins."""
        with self._lock:
            self._earlier_s = earlier_s
            self._first_step = first_step
            self._trained_since_s = self._clock.monotonic()
            self._facts = replace(self._facts, started_at=at)

    def set_state(self, state: int, reason: str, error_code: str = "") -> leyline.RunStateChange:
        """Change the state and say why; returns the change for an event."""
        with self._lock:
            before = self._facts.state
            ended = self._clock.wall() if state in _ENDED else None
            self._facts = replace(self._facts, state=state, reason=reason, error_code=error_code, ended_at=ended)
        return leyline.RunStateChange(from_state=_state(before), to_state=_state(state), reason=reason)

    def set_progress(self, **values: Any) -> None:
        """Change some fields of the progress."""
        with self._lock:
            self._facts = replace(self._facts, progress=replace(self._facts.progress, **values))

    def set_seeds(self, seeds: Mapping[str, leyline.SeedState]) -> None:
        """Replace the seeds; the messages must not be changed afterwards."""
        with self._lock:
            self._seeds = dict(seeds)
            self.wanted = False

    def set_result(self, result: leyline.RunResult) -> None:
        """Set the final result."""
        with self._lock:
            self._facts = replace(self._facts, result=result)

    def set_connected(self, peer: str, connected: bool) -> None:
        """Say whether a peer of the control plane answers."""
        with self._lock:
            self._connected = self._connected | {peer} if connected else self._connected - {peer}

    def progress(self) -> leyline.RunProgress:
        """Return the progress now, with speed and expected time to go."""
        with self._lock:
            facts, first_step = self._facts.progress, self._first_step
            here_s = max(1e-9, self._clock.monotonic() - self._trained_since_s)
        speed = max(0, facts.step - first_step) / here_s
        message = leyline.RunProgress(
            step=facts.step,
            total_steps=facts.total_steps,
            epoch=facts.epoch,
            fraction=facts.fraction,
            loss=facts.loss,
            validation_loss=facts.validation_loss,
            validation_accuracy=facts.validation_accuracy,
            distillation_loss=facts.distillation_loss,
            bits_per_character=facts.bits_per_character,
            elapsed=to_duration(self.elapsed_s),
            flops_used=facts.flops_used,
            parameters=facts.parameters,
            generation=facts.generation,
            steps_per_s=speed,
        )
        if speed > 0:
            message.eta.CopyFrom(to_duration(max(0, facts.total_steps - facts.step) / speed))
        return message

    def status(self) -> leyline.RunStatus:
        """Return everything as one message."""
        progress = self.progress()
        with self._lock:
            facts, seeds = self._facts, list(self._seeds.values())
        message = leyline.RunStatus(
            training_run_id=self._request.run_id,
            spec=self._request.spec,
            state=_state(facts.state),
            reason=facts.reason,
            progress=progress,
            seeds=seeds,
            submitted_at=to_timestamp(self._request.submitted_at),
            started_at=to_timestamp(facts.started_at) if facts.started_at else None,
            ended_at=to_timestamp(facts.ended_at) if facts.ended_at else None,
            result=facts.result,
            control_plane_connected=self._connected >= _CONTROL_PLANE,
            worker_pid=0 if facts.state in _ENDED else self._pid,
            error_code=facts.error_code,
        )
        return message


_CONTROL_PLANE = frozenset({"tamiyo", "kasmina"})
_ENDED = frozenset({leyline.RUN_STATE_HALTED, leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_FAILED})


def _state(value: int) -> leyline.RunState.ValueType:
    return leyline.RunState.ValueType(value)
