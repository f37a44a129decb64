"""Circuit breaker: after some failures in a row calls are held back, then one probe decides.

CLOSED lets calls pass and counts failures in a row. OPEN refuses until its time is over. HALF_OPEN lets a single probe
pass: its success closes the breaker, or the last of several in a row where more are asked for; its failure opens it
again. Calls that were admitted before the last transition have no say any more. Every transition is told, in order,
outside the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TypeAlias

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import CircuitOpenError, OperationCancelledError

State: TypeAlias = leyline.CircuitState.ValueType


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, for telemetry."""

    breaker: str
    from_state: State
    to_state: State
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """What the breaker looks like now; `retry_after_s` is 0 unless it is OPEN."""

    name: str
    state: State
    failures_in_a_row: int
    retry_after_s: float
    opened_total: int
    refused_total: int


@dataclass(slots=True)
class Permit:
    """Leave to make one call; report its outcome exactly once."""

    _breaker: CircuitBreaker
    _term: int
    _settled: bool = field(default=False)

    def success(self) -> None:
        """Report that the call went well."""
        self._settle(self._breaker._succeeded)

    def failure(self, reason: str = "call failed") -> None:
        """Report that the call failed."""
        self._settle(lambda term: self._breaker._failed(term, reason))

    def abandon(self) -> None:
        """Report that the call was given up without an outcome; a probe's place becomes free again."""
        self._settle(self._breaker._abandoned)

    def _settle(self, report: Callable[[int], None]) -> None:
        if not self._settled:
            self._settled = True
            report(self._term)


class CircuitBreaker:
    """The breaker in front of one peer or one operation. Safe across threads.

    Parameters
    ----------
    name : str
        Name for telemetry and for operators.
    failure_threshold : int
        Failures in a row that open it.
    open_s : float
        Seconds it stays OPEN before it lets a probe through.
    success_threshold : int
        Probes in a row that must succeed before it closes.
    on_transition : callable, optional
        Told of every transition; must not raise.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int = 3,
        open_s: float = 30.0,
        success_threshold: int = 1,
        on_transition: Callable[[Transition], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if failure_threshold < 1 or success_threshold < 1 or open_s <= 0:
            raise ValueError("failure_threshold and success_threshold must be at least 1 and open_s above 0")
        self.name = name
        self._threshold = failure_threshold
        self._open_s = open_s
        self._enough = success_threshold
        self._tell = on_transition
        self._clock = clock
        self._lock = Lock()
        self._state: State = leyline.CIRCUIT_STATE_CLOSED
        self._term = 0
        self._failures = 0
        self._successes = 0
        self._opened_at = 0.0
        self._probing = False
        self._opened_total = 0
        self._refused_total = 0

    @property
    def state(self) -> State:
        """The state as of the last call or report."""
        return self._state

    def snapshot(self) -> BreakerSnapshot:
        """Return state and counters together."""
        with self._lock:
            return BreakerSnapshot(
                self.name, self._state, self._failures, self._wait_s(), self._opened_total, self._refused_total
            )

    def try_acquire(self) -> Permit | None:
        """Return a permit, or None when calls are held back."""
        told: list[Transition] = []
        with self._lock:
            if self._state == leyline.CIRCUIT_STATE_OPEN and self._wait_s() <= 0:
                self._move(leyline.CIRCUIT_STATE_HALF_OPEN, "time to probe", told)
            permit = self._admit()
        self._announce(told)
        return permit

    def acquire(self) -> Permit:
        """Return a permit.

        Raises
        ------
        CircuitOpenError
            When calls are held back, with the seconds until the next probe.
        """
        permit = self.try_acquire()
        if permit is not None:
            return permit
        wait_s = self.snapshot().retry_after_s
        raise CircuitOpenError(
            f"Calls to {self.name} are held back after repeated failures; the next probe is due in {wait_s:.1f} s.",
            details={"breaker": self.name},
            retry_after_s=wait_s,
        )

    @contextmanager
    def guard(self, counts: Callable[[Exception], bool] = lambda error: True) -> Iterator[None]:
        """Guard one call, synchronous or awaited, inside a with block.

        Parameters
        ----------
        counts : callable
            Tells whether an exception is a failure of the peer; others count as success of the connection.
        """
        permit = self.acquire()
        try:
            yield
        except OperationCancelledError:
            permit.abandon()
            raise
        except Exception as error:
            if counts(error):
                permit.failure(f"{type(error).__name__}: {error}")
            else:
                permit.success()
            raise
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            permit.abandon()
            raise
        else:
            permit.success()

    def trip(self, reason: str) -> None:
        """Open the breaker by order, whatever its state."""
        self._order(leyline.CIRCUIT_STATE_OPEN, reason)

    def reset(self, reason: str = "reset by order") -> None:
        """Close the breaker by order, whatever its state."""
        self._order(leyline.CIRCUIT_STATE_CLOSED, reason)

    def _order(self, state: State, reason: str) -> None:
        told: list[Transition] = []
        with self._lock:
            self._move(state, reason, told)
        self._announce(told)

    def _admit(self) -> Permit | None:
        closed = self._state == leyline.CIRCUIT_STATE_CLOSED
        free_probe = self._state == leyline.CIRCUIT_STATE_HALF_OPEN and not self._probing
        if not (closed or free_probe):
            self._refused_total += 1
            return None
        self._probing = free_probe
        return Permit(self, self._term)

    def _succeeded(self, term: int) -> None:
        told: list[Transition] = []
        with self._lock:
            if term == self._term:
                self._failures = 0
                if self._state == leyline.CIRCUIT_STATE_HALF_OPEN:
                    self._probed(told)
        self._announce(told)

    def _probed(self, told: list[Transition]) -> None:
        self._probing = False
        self._successes += 1
        if self._successes >= self._enough:
            self._move(leyline.CIRCUIT_STATE_CLOSED, "probe succeeded", told)

    def _failed(self, term: int, reason: str) -> None:
        told: list[Transition] = []
        with self._lock:
            if term == self._term and self._state != leyline.CIRCUIT_STATE_OPEN:
                self._failures += 1
                if self._state == leyline.CIRCUIT_STATE_HALF_OPEN or self._failures >= self._threshold:
                    self._move(leyline.CIRCUIT_STATE_OPEN, reason, told)
        self._announce(told)

    def _abandoned(self, term: int) -> None:
        with self._lock:
            if term == self._term:
                self._probing = False

    def _move(self, state: State, reason: str, told: list[Transition]) -> None:
        told.append(Transition(self.name, self._state, state, reason, self._clock.wall()))
        self._state = state
        self._term += 1
        self._probing = False
        self._successes = 0
        if state == leyline.CIRCUIT_STATE_OPEN:
            self._opened_at = self._clock.monotonic()
            self._opened_total += 1
        elif state == leyline.CIRCUIT_STATE_CLOSED:
            self._failures = 0

    def _wait_s(self) -> float:
        if self._state != leyline.CIRCUIT_STATE_OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock.monotonic())

    def _announce(self, told: list[Transition]) -> None:
        if self._tell is not None:
            for transition in told:
                self._tell(transition)
