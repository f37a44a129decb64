"""What people can ask of a run: take it, show it, pause, resume, halt, roll back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, Deadline
from esper_core.errors import IntegrityError, StateConflictError, StorageError
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2
from tolaria.service.completion import Completion
from tolaria.service.orders import OrderDesk, RunOverError, new_order
from tolaria.service.roster import Roster
from tolaria.service.runs import ENDED, RunStore, state_word
from tolaria.service.submission import check_spec
from tolaria.service.supervision import POLL_S, Supervisor

Holds: TypeAlias = Callable[[leyline.RunStatus], bool]
TOLD_S: Final = 3.0
"""How long a change of state may take from the worker's answer to its status.json."""


class Steering:
    """Steers runs.

    Parameters
    ----------
    store : RunStore
        The runs.
    roster : Roster
        Who works on them.
    supervisor : Supervisor
        Ends and revives runs without a worker.
    desk : OrderDesk
        Orders to them.
    completion : Completion
        Checks specifications against their tasks.
    order_timeout_s, halt_timeout_s : float
        Longest wait until an order was obeyed, and until a halted run has ended.
    """

    def __init__(
        self,
        store: RunStore,
        roster: Roster,
        supervisor: Supervisor,
        desk: OrderDesk,
        completion: Completion,
        *,
        order_timeout_s: float,
        halt_timeout_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store = store
        self._roster = roster
        self._supervisor = supervisor
        self._desk = desk
        self._completion = completion
        self._order_timeout_s = order_timeout_s
        self._halt_timeout_s = halt_timeout_s
        self._clock = clock
        self._submitting = asyncio.Lock()

    async def submit(self, request_id: str, spec: leyline.RunSpec) -> leyline.RunStatus:
        """Take a run; the same request gives the same run, also after a restart.

        Raises
        ------
        ValidationError
            If something is wrong with the specification; nothing is kept then.
        AlreadyExistsError
            If the request id was used for another specification.
        """
        check_spec(spec)
        known = self._store.reserved(request_id, spec)
        if known is not None:
            return await self.status(known)
        completed = await self._completion.complete(spec)
        async with self._submitting:
            run_id = self._store.reserved(request_id, spec)
            if run_id is None:
                run_id = await asyncio.to_thread(self._store.create, request_id, spec, completed)
                self._roster.enqueue(run_id)
        return await self.status(run_id)

    async def status(self, run_id: str) -> leyline.RunStatus:
        """Return a run as it is now: what its worker last wrote, and whether that worker lives."""
        status = await asyncio.to_thread(self._store.status, run_id)
        status.worker_pid = 0 if status.state in ENDED else self._roster.pid(run_id)
        if status.state not in ENDED:
            status.reason = self._roster.waiting_for(run_id) or status.reason
        return status

    async def list(self, limit: int) -> list[leyline.RunStatus]:
        """Return the newest runs, newest first; one whose files are damaged is told as FAILED, with the reason."""
        return [await self._listed(run_id) for run_id in self._store.ids()[:limit]]

    async def pause(self, run_id: str, reason: str) -> leyline.RunStatus:
        """Have a run wait at its next fence.

        Raises
        ------
        StateConflictError
            If it has ended or waits for its turn.
        """
        await self._require_worker(run_id, "paused")
        await self._order(run_id, leyline.ORDER_KIND_PAUSE, reason or "Paused by order.")
        return await self._until(run_id, lambda status: status.state == leyline.RUN_STATE_PAUSED, TOLD_S)

    async def resume(self, run_id: str) -> leyline.RunStatus:
        """Let a paused run go on, or queue a halted one again; a run that goes on already is left alone.

        Raises
        ------
        StateConflictError
            If it has completed or failed.
        """
        status = await self.status(run_id)
        if status.state == leyline.RUN_STATE_HALTED:
            await self._until_idle(run_id)
            await self._supervisor.revive(run_id)
        elif status.state in ENDED:
            raise _unfit(status, "resumed", "PAUSED or HALTED")
        elif status.state == leyline.RUN_STATE_PAUSED:
            await self._order(run_id, leyline.ORDER_KIND_RESUME, "Resumed by order.")
            return await self._until(run_id, lambda now: now.state != leyline.RUN_STATE_PAUSED, TOLD_S)
        return await self.status(run_id)

    async def halt(self, run_id: str, reason: str) -> leyline.RunStatus:
        """Stop a run with a checkpoint; one that was halted already stays so.

        Raises
        ------
        StateConflictError
            If it has completed or failed.
        """
        status = await self.status(run_id)
        if status.state == leyline.RUN_STATE_HALTED:
            return status
        if status.state in ENDED:
            raise _unfit(status, "halted", "not ended")
        told = reason or "Halted by order."
        if not await self._supervisor.drop(run_id, told):
            try:
                await self._order(run_id, leyline.ORDER_KIND_HALT, told)
            except RunOverError:
                return await self.status(run_id)
        return await self._until(run_id, lambda now: now.state in ENDED, self._halt_timeout_s)

    async def rollback(self, run_id: str, to_step: int | None, *, full: bool) -> leyline.RollbackReport:
        """Take a run back to an earlier state; the report says how that ended.

        Raises
        ------
        StateConflictError
            If it has ended or waits for its turn.
        """
        await self._require_worker(run_id, "rolled back")
        order = new_order(leyline.ORDER_KIND_ROLLBACK, "Rollback by order.", to_step=to_step, full=full)
        return (await self._desk.obeyed(run_id, order, self._order_timeout_s)).rollback

    async def _listed(self, run_id: str) -> leyline.RunStatus:
        try:
            return await self.status(run_id)
        except (IntegrityError, StorageError) as error:
            return leyline.RunStatus(
                training_run_id=run_id,
                state=leyline.RUN_STATE_FAILED,
                reason=error.message,
                error_code=error.code,
            )

    async def _require_worker(self, run_id: str, done: str) -> None:
        status = await self.status(run_id)
        if status.state in ENDED or not status.worker_pid:
            raise _unfit(status, done, "in training")

    async def _order(self, run_id: str, kind: leyline.OrderKind.ValueType, reason: str) -> tolaria_pb2.OrderResult:
        return await self._desk.obeyed(run_id, new_order(kind, reason), self._order_timeout_s)

    async def _until(self, run_id: str, holds: Holds, timeout_s: float) -> leyline.RunStatus:
        """Return the status once it says what was ordered, or as it is when the time is over."""
        deadline = Deadline.after(timeout_s, self._clock)
        while True:
            status = await self.status(run_id)
            if holds(status) or deadline.passed:
                return status
            await asyncio.sleep(POLL_S / 2)

    async def _until_idle(self, run_id: str) -> None:
        """Wait until the worker of a halted run is gone: it still says its last words.

        Raises
        ------
        StateConflictError
            If it does not end.
        """
        deadline = Deadline.after(self._halt_timeout_s, self._clock)
        while self._roster.busy(run_id):
            if deadline.passed:
                raise StateConflictError(f"The worker of run {run_id} has halted but does not end. Try again later.")
            await asyncio.sleep(POLL_S / 2)


def _unfit(status: leyline.RunStatus, done: str, wanted: str) -> StateConflictError:
    return StateConflictError(
        f"Run {status.training_run_id} is {state_word(status.state)} ({status.reason}); "
        f"only a run that is {wanted} can be {done}.",
        details={"training_run_id": status.training_run_id, "state": state_word(status.state)},
    )
