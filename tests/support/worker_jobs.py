"""Blocking functions that the worker's child processes run; they have to be importable there, so they live here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from esper_core.errors import NotFoundError


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
