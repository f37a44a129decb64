"""The memories of all runs, bounded: the run that was silent longest gives way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tamiyo.memory import RunMemory

MAX_RUNS: Final = 256


class RunTable:
    """Memories by run id."""

    def __init__(self, limit: int = MAX_RUNS) -> None:
        self._limit = limit
        self._runs: dict[str, RunMemory] = {}
        self._greet: Callable[[RunMemory], None] | None = None

    def __iter__(self) -> Iterator[RunMemory]:
        return iter(tuple(self._runs.values()))

    def on_open(self, greet: Callable[[RunMemory], None]) -> None:
        """Let somebody see every memory, those that are open and each new one, before it is used."""
        self._greet = greet
        for memory in self:
            greet(memory)

    def get(self, run_id: str) -> RunMemory | None:
        """Return the memory of a run, or None."""
        return self._runs.get(run_id)

    def open(self, run_id: str) -> RunMemory:
        """Return the memory of a run, a new one where there is none."""
        memory = self._runs.get(run_id)
        if memory is None:
            memory = self._runs[run_id] = RunMemory(run_id)
            if self._greet is not None:
                self._greet(memory)
            while len(self._runs) > self._limit:
                del self._runs[min(self._runs, key=lambda one: self._runs[one].seen_at_s)]
        return memory
