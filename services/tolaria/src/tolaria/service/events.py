"""Following the event journal of a run while its worker writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.errors import UnavailableError
from esper_core.journal import read_journal
from tolaria.rundir import RunDirectory
from tolaria.service.bells import Bells
from tolaria.service.roster import Roster
from tolaria.service.runs import ENDED, RunStore

LOOK_S: Final = 0.1


@dataclass(slots=True)
class _Reader:
    """A place in a journal, and whether the last event read says that the run has ended."""

    directory: RunDirectory
    offset: int = 0
    at_end: bool = False

    def news(self) -> list[leyline.RunEvent]:
        path = self.directory.events_path
        if not path.exists() or path.stat().st_size <= self.offset:
            return []
        contents = read_journal(path, self.offset)
        self.offset = contents.next_offset
        events = [leyline.RunEvent.FromString(payload) for payload in contents.payloads]
        if events:
            last = events[-1]
            self.at_end = last.kind == leyline.RUN_EVENT_KIND_STATE and last.state.to_state in ENDED
        return events


class EventDesk:
    """Serves the events of runs.

    Parameters
    ----------
    store : RunStore
        The runs.
    roster : Roster
        Knows whether more is to come.
    bells : Bells
        Rung when something was written.
    stopped : callable
        Says whether the service has brought its workers down.
    """

    def __init__(self, store: RunStore, roster: Roster, bells: Bells, stopped: Callable[[], bool]) -> None:
        self._store = store
        self._roster = roster
        self._bells = bells
        self._stopped = stopped

    async def events(self, run_id: str, after: int, *, follow: bool) -> AsyncIterator[leyline.RunEvent]:
        """Yield the events after a sequence number; with `follow` until the run has ended.

        Raises
        ------
        NotFoundError
            If there is no such run.
        UnavailableError
            If the service stops before the run has ended.
        """
        reader = _Reader(self._store.directory(run_id))
        while True:
            over = not follow or await self._over(run_id, reader)
            news = await asyncio.to_thread(reader.news)
            for event in news:
                if event.sequence > after:
                    yield event
            if over:
                return
            if not news:
                self._require_service(run_id)
                await self._bells.wait(run_id, LOOK_S)

    async def _over(self, run_id: str, reader: _Reader) -> bool:
        """Say whether nothing more will be written: the run has ended, and its worker has said so or is gone."""
        if self._roster.busy(run_id) and not reader.at_end:
            return False
        status = await asyncio.to_thread(self._store.status, run_id)
        return status.state in ENDED

    def _require_service(self, run_id: str) -> None:
        if self._stopped():
            raise UnavailableError(f"Tolaria stops; run {run_id} is watched again as soon as it is back.")
