"""Commands that wait for a kernel: woken by news, and told when waiting has become pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kasmina.kernels import KernelKey
from kasmina.telemetry import Telemetry


@dataclass(slots=True)
class Wait:
    """One command that waits; `canceled` says why it need not wait any longer."""

    run_id: str
    key: KernelKey
    canceled: str = ""


class Waits:
    """Keeps those who wait, and the gauge of their number."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._waiting: list[Wait] = []
        self._news = asyncio.Event()

    @contextmanager
    def entry(self, run_id: str, key: KernelKey) -> Iterator[Wait]:
        """Stand in the list for the block."""
        wait = Wait(run_id, key)
        self._waiting.append(wait)
        self._tell()
        try:
            yield wait
        finally:
            self._waiting.remove(wait)
            self._tell()

    def news(self) -> asyncio.Event:
        """Return the event that the next news sets; take it before looking, so that no news is missed."""
        return self._news

    def wake(self) -> None:
        """Let everybody look again."""
        self._news.set()
        self._news = asyncio.Event()

    def cancel(self, doomed: Callable[[Wait], bool], why: str) -> int:
        """Tell some that no kernel will come for them; return their number."""
        canceled = [wait for wait in self._waiting if not wait.canceled and doomed(wait)]
        for wait in canceled:
            wait.canceled = why
        self.wake()
        return len(canceled)

    def _tell(self) -> None:
        self._telemetry.instruments.gauge("kasmina.kernel.pending", len(self._waiting))
