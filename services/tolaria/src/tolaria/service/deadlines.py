"""Watches the deadlines that workers announce in shared memory; one that is missed is an emergency of level four."""

from __future__ import annotations

import asyncio
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.logs import get_logger
from tolaria.safety.deadlines import Deadline, announced_deadline
from tolaria.service.emergencies import Emergencies, Emergency
from tolaria.service.roster import Roster
from tolaria.service.runs import RunStore

LOOK_S: Final = 0.5
GRACE_S: Final = 1.0
"""A worker that only just misses its deadline says so itself."""
_log = get_logger("deadlines")


class DeadlineWatch:
    """Raises the emergency that a hanging worker cannot raise itself.

    Parameters
    ----------
    store : RunStore
        Where the runs lie.
    roster : Roster
        Which of them have a worker.
    emergencies : Emergencies
        Raises them; a signal that was raised before is not raised again.
    """

    def __init__(
        self, store: RunStore, roster: Roster, emergencies: Emergencies, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._roster = roster
        self._emergencies = emergencies
        self._clock = clock

    async def run(self) -> None:
        """Look for ever."""
        while True:
            for run_id in self._roster.concerned:
                await self.look(run_id)
            await asyncio.sleep(LOOK_S)

    async def look(self, run_id: str) -> None:
        """Look at one run; what is wrong with its file must not keep the others from being watched."""
        pid = self._roster.pid(run_id)
        if not pid:
            return
        try:
            found = announced_deadline(self._store.directory(run_id))
            if found is not None and self._is_missed(found, pid):
                await self._emergencies.sound(self._emergency(run_id, found.number))
        except EsperError as error:
            _log.error("a deadline could not be watched", run_id=run_id, code=error.code, reason=error.message)

    def _is_missed(self, found: Deadline, pid: int) -> bool:
        return found.running and found.pid == pid and self._clock.monotonic() >= found.at_monotonic_s + GRACE_S

    def _emergency(self, run_id: str, number: int) -> Emergency:
        return Emergency(
            level=leyline.EMERGENCY_LEVEL_HALT,
            reason="A rollback missed its deadline and its worker said nothing.",
            training_run_id=run_id,
            signal_id=f"deadline-{run_id}-{number}",
            origin="tolaria",
            triggered_at=self._clock.wall(),
        )
