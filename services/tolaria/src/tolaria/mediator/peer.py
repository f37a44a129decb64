"""A peer of the control plane: its breaker, its pauses, and what the run is told when it goes and comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from esper_core import leyline
from esper_core.breaker import CircuitBreaker, Permit, Transition
from esper_core.errors import EsperError, TimeoutExceededError, UnavailableError
from esper_core.logs import get_logger
from esper_core.rpc import Backoff, from_rpc_error
from esper_core.telemetry import TelemetryEmitter
from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog
from tolaria.settings import WorkerSettings
from tolaria.training.links import ControlHealth

PEER_FAILURES: Final = (grpc.RpcError, EsperError, TimeoutError, OSError, asyncio.InvalidStateError)
"""What a call to a peer may end with; grpc.aio raises InvalidStateError for a write to a call that has ended."""

_log = get_logger("mediator")


@dataclass(frozen=True, slots=True)
class Voices:
    """Whom the mediator's parts tell what happens.

    Attributes
    ----------
    step : callable
        Returns the present optimizer step.
    generation : callable
        Returns the present generation.
    """

    board: StatusBoard
    events: EventLog
    control: ControlHealth
    step: Callable[[], int]
    generation: Callable[[], int]


class ControlPeer:
    """Watches over the calls to one peer of the control plane.

    After `peer_failure_limit` failures in a row the peer counts as lost, which turns the run conservative; the first
    success afterwards brings it back.

    Parameters
    ----------
    name : str
        The peer.
    settings : WorkerSettings
        Limits and pauses.
    voices, telemetry
        Who is told.
    """

    def __init__(self, name: str, settings: WorkerSettings, voices: Voices, telemetry: TelemetryEmitter) -> None:
        self.name = name
        self._telemetry = telemetry
        self._voices = voices
        self._backoff = Backoff(settings.backoff_initial_s, settings.backoff_limit_s)
        self._jitter = random.Random()
        self._failures = 0
        self._connected = False
        self._breaker = CircuitBreaker(
            name,
            failure_threshold=settings.peer_failure_limit,
            open_s=settings.backoff_limit_s,
            on_transition=self._moved,
        )

    async def permit(self) -> Permit:
        """Wait until a call may be made."""
        while True:
            permit = self._breaker.try_acquire()
            if permit is not None:
                return permit
            await asyncio.sleep(self._breaker.snapshot().retry_after_s + 0.01)

    def succeeded(self, permit: Permit) -> None:
        """Take note of an answer."""
        permit.success()
        self._failures = 0
        if not self._connected:
            self._connected = True
            self._voices.board.set_connected(self.name, True)

    async def failed(self, permit: Permit, error: Exception) -> None:
        """Take note of a failure, tell it, and pause before the next try."""
        known = self._typed(error)
        if self._connected:
            self._connected = False
            self._voices.board.set_connected(self.name, False)
        self._failures += 1
        if isinstance(known, TimeoutExceededError):
            self._telemetry.count(f"tolaria.timeout.{self.name}_total")
        _log.warning("a call failed", peer=self.name, code=known.code, reason=known.message, failures=self._failures)
        permit.failure(f"{known.message} ({known.code})")
        await asyncio.sleep(self._backoff.wait_s(min(self._failures, 16), self._jitter))

    def _typed(self, error: Exception) -> EsperError:
        if isinstance(error, EsperError):
            return error
        if isinstance(error, grpc.RpcError):
            return from_rpc_error(error, self.name)
        if isinstance(error, TimeoutError):
            return TimeoutExceededError(f"{self.name} did not answer in time.")
        return UnavailableError(f"The connection to {self.name} ended.")

    def _moved(self, transition: Transition) -> None:
        self._telemetry.breaker_moved(transition)
        if transition.to_state == leyline.CIRCUIT_STATE_OPEN:
            if self._voices.control.set_lost(self.name, transition.reason):
                self._tell(True, transition.reason)
        elif transition.to_state == leyline.CIRCUIT_STATE_CLOSED and self._voices.control.set_back(self.name):
            self._tell(False, f"{self.name} answers again.")

    def _tell(self, lost: bool, reason: str) -> None:
        self._voices.events.append(leyline.ControlLoss(peer=self.name, lost=lost, reason=reason), self._voices.step())
        level = leyline.TELEMETRY_LEVEL_CRITICAL if lost else leyline.TELEMETRY_LEVEL_INFO
        name = "control_plane_lost" if lost else "control_plane_back"
        self._telemetry.event(name, level, reason, peer=self.name)
