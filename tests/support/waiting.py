"""Wait on conditions with deadlines, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.01


class DeadlineMissedError(AssertionError):
    """The condition did not hold before the deadline."""


def wait_until(
    predicate: Callable[[], T], deadline_s: float = 10.0, *, what: str | None = None, poll_s: float = POLL_S
) -> T:
    """Call `predicate` until its answer is true and return that answer.

    Parameters
    ----------
    predicate
        Called at least once, also when the deadline is zero.
    deadline_s
        Seconds after which waiting ends.
    what
        Names the condition in the failure message; the predicate's name otherwise.
    poll_s
        Seconds between two calls.

    Raises
    ------
    DeadlineMissedError
        With the condition's name and the predicate's last answer.
    """
    started = time.monotonic()
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() - started >= deadline_s:
            raise _missed(what, predicate, deadline_s, answer)
        time.sleep(poll_s)


async def await_until(
    predicate: Callable[[], T | Awaitable[T]],
    deadline_s: float = 10.0,
    *,
    what: str | None = None,
    poll_s: float = POLL_S,
) -> T:
    """Do what `wait_until` does without blocking the event loop; the predicate may be a coroutine function.

    Raises
    ------
    DeadlineMissedError
        With the condition's name and the predicate's last answer.
    """
    started = time.monotonic()
    while True:
        given = predicate()
        answer: T = await given if inspect.isawaitable(given) else given
        if answer:
            return answer
        if time.monotonic() - started >= deadline_s:
            raise _missed(what, predicate, deadline_s, answer)
        await asyncio.sleep(poll_s)


def _missed(what: str | None, predicate: object, deadline_s: float, answer: object) -> DeadlineMissedError:
    name = what or getattr(predicate, "__qualname__", repr(predicate))
    return DeadlineMissedError(f"{name} did not hold within {deadline_s:g} s; last answer: {answer!r}")
