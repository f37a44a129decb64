"""Wakes everybody who waits for the next change of the catalogue."""

from __future__ import annotations

import asyncio


class ChangeBell:
    """A bell that many may wait for; who was away asks the catalogue for what was missed."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._rung.set()
        self._rung = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event of the next ring; take it before looking, so that no ring is missed."""
        return self._rung
