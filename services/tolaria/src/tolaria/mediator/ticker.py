"""The ticker: status.json about once a second, and a progress event whenever the run got further."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tolaria.reporting.board import StatusBoard
from tolaria.reporting.events import EventLog


class Ticker:
    """Keeps status and progress fresh without troubling the training thread.

    Parameters
    ----------
    board : StatusBoard
        What is known.
    events : EventLog
        Where progress is told.
    save_status : callable
        Writes status.json.
    interval_s : float
        Time between two looks.
    """

    name = "ticker"

    def __init__(
        self, board: StatusBoard, events: EventLog, save_status: Callable[[], None], interval_s: float
    ) -> None:
        self._board = board
        self._events = events
        self._save_status = save_status
        self._interval_s = interval_s
        self._told_step = -1

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._board.wanted = True
            await asyncio.sleep(self._interval_s)
            await asyncio.to_thread(self._tick)

    async def finish(self) -> None:
        """Nothing is left: the training thread writes the last status itself."""

    def _tick(self) -> None:
        progress = self._board.progress()
        if progress.step != self._told_step:
            self._told_step = progress.step
            self._events.append(progress, progress.step)
        self._save_status()
