"""Emergencies: told to every run concerned, once per signal; the highest level halts with a checkpoint."""

from __future__ import annotations

import asyncio
import signal
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import EsperError, UnavailableError
from esper_core.ids import new_id
from esper_core.logs import get_logger
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from tolaria.safety.alarm import Level, require_level
from tolaria.safety.signals import send_signal
from tolaria.service.orders import OrderDesk
from tolaria.service.roster import Roster
from tolaria.service.runs import ENDED, RunStore
from tolaria.service.supervision import Supervisor
from tolaria.service.tally import RunTally

_REMEMBERED: Final = 1024
_log = get_logger("emergencies")


@dataclass(frozen=True, slots=True)
class Emergency:
    """An emergency as it was raised; an empty run means all."""

    level: leyline.EmergencyLevel.ValueType
    reason: str
    training_run_id: str
    signal_id: str
    origin: str
    triggered_at: datetime

    def order(self) -> tolaria_pb2.WorkerOrder:
        """Return the order that tells a worker; its id follows from the signal's, so that none obeys twice."""
        return tolaria_pb2.WorkerOrder(
            order_id=f"emergency-{self.signal_id}",
            kind=leyline.ORDER_KIND_EMERGENCY,
            reason=self.reason,
            level=self.level,
            signal_id=self.signal_id,
            origin=self.origin,
            triggered_at=to_timestamp(self.triggered_at),
        )


class Emergencies:
    """Raises and clears emergencies in runs. Lives on one event loop.

    Parameters
    ----------
    store : RunStore
        The runs.
    roster : Roster
        Who works on them.
    supervisor : Supervisor
        Ends runs without a worker.
    desk : OrderDesk
        Orders to them.
    tally : RunTally
        Counts halts.
    order_timeout_s : float
        A worker that has not obeyed a halt by then is told by a signal of the system instead.
    """

    def __init__(
        self,
        store: RunStore,
        roster: Roster,
        supervisor: Supervisor,
        desk: OrderDesk,
        tally: RunTally,
        order_timeout_s: float,
    ) -> None:
        self._store = store
        self._roster = roster
        self._supervisor = supervisor
        self._desk = desk
        self._tally = tally
        self._order_timeout_s = order_timeout_s
        self._told: OrderedDict[str, list[str]] = OrderedDict()
        self._halting: set[asyncio.Task[None]] = set()

    async def sound(self, emergency: Emergency) -> list[str]:
        """Tell the runs concerned and return them; a signal that was heard before is not told again.

        Raises
        ------
        NotFoundError
            If the run that is named does not exist.
        ValidationError
            If the level is none of L1 to L4.
        UnavailableError
            If a run could not be told; the others were, and the same signal may be sent again.
        """
        require_level(emergency.level)
        if emergency.signal_id in self._told:
            return self._told[emergency.signal_id]
        runs = self._concerned(emergency.training_run_id)
        self._told[emergency.signal_id] = runs
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        missed = [run_id for run_id in runs if not await self._told_to(run_id, emergency)]
        if missed:
            self._told.pop(emergency.signal_id, None)
            raise UnavailableError(f"The emergency could not be told to {', '.join(missed)}. Send it again.")
        return runs

    def clear(
        self, training_run_id: str, reason: str, to_level: Level = leyline.EMERGENCY_LEVEL_UNSPECIFIED
    ) -> list[str]:
        """Have the runs concerned forget their emergency, or lower it to a level; returns them.

        Raises
        ------
        NotFoundError
            If the run that is named does not exist.
        """
        runs = self._concerned(training_run_id)
        for run_id in runs:
            order = tolaria_pb2.WorkerOrder(
                order_id=new_id("clear"), kind=leyline.ORDER_KIND_CLEAR_EMERGENCY, reason=reason, level=to_level
            )
            self._desk.give(run_id, order)
        return runs

    async def close(self) -> None:
        """End what still waits for workers."""
        for task in self._halting:
            task.cancel()
        await asyncio.gather(*self._halting, return_exceptions=True)

    def _concerned(self, training_run_id: str) -> list[str]:
        if not training_run_id:
            return self._roster.concerned
        return [] if self._store.status(training_run_id).state in ENDED else [training_run_id]

    async def _told_to(self, run_id: str, emergency: Emergency) -> bool:
        """Tell one run; one that cannot be told must not keep the next from being told."""
        try:
            await self._tell(run_id, emergency)
        except EsperError as error:
            _log.error("a run could not be told", run_id=run_id, code=error.code, reason=error.message)
            return False
        return True

    async def _tell(self, run_id: str, emergency: Emergency) -> None:
        self._signal(run_id, emergency)
        if emergency.level != leyline.EMERGENCY_LEVEL_HALT:
            self._desk.give(run_id, emergency.order())
            return
        self._tally.emergency_halt()
        if not await self._supervisor.drop(run_id, f"Emergency: {emergency.reason}"):
            task = asyncio.create_task(self._halt(run_id, emergency), name=f"halt {run_id}")
            self._halting.add(task)
            task.add_done_callback(self._halting.discard)

    def _signal(self, run_id: str, emergency: Emergency) -> None:
        """Tell a living worker through shared memory as well; the order over the link is the one that must arrive."""
        if not self._roster.pid(run_id):
            return
        try:
            send_signal(self._store.directory(run_id), emergency.order())
        except EsperError as error:
            _log.error("shared memory could not be used", run_id=run_id, code=error.code, reason=error.message)

    async def _halt(self, run_id: str, emergency: Emergency) -> None:
        """Give the order; a worker that cannot be reached is halted by a signal, which leaves a checkpoint as well."""
        try:
            await self._desk.obeyed(run_id, emergency.order(), self._order_timeout_s)
        except EsperError as error:
            if self._roster.pid(run_id):
                _log.error("an emergency is enforced by a signal", run_id=run_id, reason=error.message)
                self._roster.send(run_id, signal.SIGTERM)
