"""What follows from a leak: it is counted, it feeds a breaker, and in strict mode it ends the run at the next fence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.breaker import CircuitBreaker, Transition
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import CircuitOpenError
from esper_runtime.errors import IsolationViolationError
from esper_runtime.leaks import Leak

BREAKER_FAILURES: Final = 3
BREAKER_OPEN_S: Final = 30.0
BREAKER_SUCCESSES: Final = 2


@dataclass(frozen=True, slots=True)
class LeakLimits:
    """Bounds on a leak, both free of scale.

    Attributes
    ----------
    cosine : float
        Largest |cosine| to the host's gradient, however small the leak is.
    ratio : float
        Largest norm relative to the host's gradient, whatever the direction.
    """

    cosine: float = 0.1
    ratio: float = 1e-3

    def violated(self, leak: Leak) -> bool:
        """Say whether a leak is beyond its bounds; one that is not a number is."""
        measured = (abs(leak.cosine or 0.0), leak.ratio)
        return not all(value <= limit for value, limit in zip(measured, (self.cosine, self.ratio), strict=True))


def isolation_breaker(
    on_transition: Callable[[Transition], None] | None = None, *, clock: Clock = SYSTEM_CLOCK
) -> CircuitBreaker:
    """Return a breaker that opens after 3 violations in a row, for 30 s, and closes after 2 clean checks."""
    return CircuitBreaker(
        "runtime.isolation",
        failure_threshold=BREAKER_FAILURES,
        open_s=BREAKER_OPEN_S,
        success_threshold=BREAKER_SUCCESSES,
        on_transition=on_transition,
        clock=clock,
    )


class IsolationGuard:
    """Judges leaks of all seeds of one host.

    Parameters
    ----------
    limits : LeakLimits
        What still passes.
    strict : bool
        Whether the first violation is raised at the next fence.
    breaker : CircuitBreaker, optional
        Is fed; while it is open no seed is attached. One of its own by default.
    """

    def __init__(
        self, limits: LeakLimits | None = None, *, strict: bool = False, breaker: CircuitBreaker | None = None
    ) -> None:
        self._limits = limits or LeakLimits()
        self._strict = strict
        self._first: IsolationViolationError | None = None
        self.breaker = breaker or isolation_breaker()

    def judge(self, seed_id: str, leak: Leak) -> bool:
        """Take note of a measurement; say whether it is a violation."""
        violated = self._limits.violated(leak)
        sentence = _sentence(seed_id, leak)
        permit = self.breaker.try_acquire()
        if permit is not None and violated:
            permit.failure(sentence)
        elif permit is not None:
            permit.success()
        if violated and self._first is None:
            self._first = IsolationViolationError(sentence, details={"seed_id": seed_id, "ratio": f"{leak.ratio:g}"})
        return violated

    def check(self) -> None:
        """Raise the first violation in strict mode; called at every fence.

        Raises
        ------
        IsolationViolationError
            Naming the seed and what was measured.
        """
        if self._strict and self._first is not None:
            raise self._first

    def admit(self) -> None:
        """Refuse another seed while the breaker is open; once its time is over a new seed is the probe.

        Raises
        ------
        CircuitOpenError
            With the seconds until a seed may be attached again.
        """
        now = self.breaker.snapshot()
        if now.state == leyline.CIRCUIT_STATE_OPEN and now.retry_after_s > 0:
            raise CircuitOpenError(
                f"Seeds have leaked into their host {BREAKER_FAILURES} times in a row, so none is attached for now; "
                f"the next may be in {now.retry_after_s:.1f} s.",
                details={"breaker": self.breaker.name},
                retry_after_s=now.retry_after_s,
            )


def _sentence(seed_id: str, leak: Leak) -> str:
    if math.isinf(leak.ratio):
        return f"Seed {seed_id} gave its host gradients although the host was to have none of its own. Cull the seed."
    cosine = "unknown" if leak.cosine is None else f"{leak.cosine:.3f}"
    return (
        f"Seed {seed_id} adds a gradient of {leak.ratio:.2g} times its host's to the host, at a cosine of {cosine}, "
        f"although it was to learn apart. Cull the seed."
    )
