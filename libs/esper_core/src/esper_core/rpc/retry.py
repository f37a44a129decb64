"""Repeat a call that may be repeated, for as long as it can help and the deadline allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc

from esper_core.clocks import SYSTEM_CLOCK, Clock, Deadline
from esper_core.errors import EsperError
from esper_core.rpc.rpc_errors import from_rpc_error

T = TypeVar("T")
_JITTER: Final = random.Random()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waits between attempts, each drawn from the upper half of its span.

    Attributes
    ----------
    first_s, longest_s : float
        Span of the first wait, and the largest span.
    factor : float
        Growth of the span from one wait to the next.
    """

    first_s: float = 0.1
    longest_s: float = 5.0
    factor: float = 2.0

    def wait_s(self, failures: int, random_source: random.Random) -> float:
        """Return the wait after the given number of failures, at least 1."""
        span = min(self.longest_s, self.first_s * self.factor ** (failures - 1))
        return span * (0.5 + 0.5 * random_source.random())


DEFAULT_BACKOFF: Final = Backoff()


async def retrying(
    attempt: Callable[[float], Awaitable[T]],
    *,
    deadline_s: float,
    attempt_s: float = 5.0,
    peer: str = "",
    backoff: Backoff = DEFAULT_BACKOFF,
    random_source: random.Random = _JITTER,
    clock: Clock = SYSTEM_CLOCK,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Call `attempt(timeout_s)` until it succeeds, a retry cannot help, or the deadline is too near for another.

    Only for idempotent calls. A RetryInfo of the peer lengthens the wait, never shortens it.

    Parameters
    ----------
    attempt : Callable[[float], Awaitable]
        Makes one call with the timeout it is given: `lambda timeout: stub.GetKernel(request, timeout=timeout)`.
    deadline_s : float
        Time for all attempts and waits together.
    attempt_s : float
        Longest time of one attempt.
    peer : str
        Name of the peer, for messages.

    Raises
    ------
    EsperError
        The error of the last attempt.
    """
    deadline = Deadline.after(deadline_s, clock)
    failures = 0
    while True:
        try:
            return await attempt(min(attempt_s, max(deadline.remaining_s, 0.001)))
        except (grpc.RpcError, EsperError) as failure:
            error = failure if isinstance(failure, EsperError) else from_rpc_error(failure, peer)
            failures += 1
            wait_s = max(error.retry_after_s or 0.0, backoff.wait_s(failures, random_source))
            if not error.retryable or wait_s >= deadline.remaining_s:
                raise error from (None if failure is error else failure)
        await sleep(wait_s)
