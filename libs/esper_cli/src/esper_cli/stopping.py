"""Being asked to stop, without an exception that may arise, and be swallowed, in the middle of anything."""

from __future__ import annotations

import signal
import subprocess
import threading
from concurrent.futures import Future, wait
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeVar

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_POLL_S: Final = 0.2
T = TypeVar("T")


class StopRequest:
    """Takes note of Ctrl-C and SIGTERM in a block; a second one interrupts at once. For the main thread only."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._former: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody asked to stop."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody asked to stop."""
        if self.asked:
            raise KeyboardInterrupt

    def result_of(self, future: Future[T]) -> T:
        """Wait for a result; raises what the work raised, or KeyboardInterrupt if somebody asks to stop before."""
        while not wait((future,), timeout=_POLL_S).done:
            self.check()
        return future.result()

    def outlast(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a process has ended or somebody asks to stop."""
        while process.poll() is None and not self._asked.wait(_POLL_S):
            pass

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()
        self._restore()

    def _restore(self) -> None:
        while self._former:
            signal.signal(*self._former.popitem())
