"""Jobs for the shared worker: coroutines, and blocking functions, which its child processes have to import."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from esper_core.errors import NotFoundError
from esper_core.worker import WorkerStats


async def double(value: int) -> int:
    """Return twice a number, after a turn of the loop."""
    await asyncio.sleep(0)
    return 2 * value


async def forever(started: threading.Event, cleaned: threading.Event) -> None:
    """Tell that it runs, wait to be cancelled, and tell that it was."""
    started.set()
    try:
        await asyncio.Event().wait()
    finally:
        cleaned.set()


def assert_adds_up(stats: WorkerStats) -> None:
    """Every job that was submitted is somewhere."""
    ended = stats.completed + stats.failed + stats.timed_out + stats.cancelled + stats.crashed
    assert stats.submitted == ended + stats.queued + stats.running


def square(value: int) -> int:
    """Return the square of a number."""
    return value * value


def spin(marker: str) -> None:
    """Write the own pid to a file, then compute for ever."""
    Path(marker).write_text(str(os.getpid()))
    while True:
        pass


def spin_with_a_child_of_its_own(marker: str) -> None:
    """Start a process, write its pid to a file, and wait for it for ever."""
    inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(marker).write_text(str(inner.pid))
    inner.wait()


def die() -> None:
    """Die as if the machine had run out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(name: str) -> None:
    """Raise one of Esper's errors with all that it can carry."""
    raise NotFoundError(f"no {name}", details={"name": name}, retry_after_s=2.0)


def unsendable() -> object:
    """Return something that cannot cross to another process."""
    return threading.Lock()
