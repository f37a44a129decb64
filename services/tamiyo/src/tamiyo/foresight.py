"""Has the kernels made that a run will probably need, so that a germination does not wait for one.

Kasmina asks for every allowed blueprint with its default parameters. What a policy will choose may be of another size;
that is asked for here, once per plan, as soon as a run says what its plan is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from esper_core import leyline
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.clocks import SYSTEM_CLOCK, Clock, to_timestamp
from esper_core.errors import EsperError
from esper_core.ids import new_id
from esper_core.logs import get_logger
from tamiyo.actions import Candidate
from tamiyo.catalogue import BlueprintSnapshot, Catalogue
from tamiyo.memory import RunMemory
from tamiyo.observation import RunPlan
from tamiyo.policies import NO_POLICY, GrowthRules
from tamiyo.policies.candidates import candidates
from tamiyo.policies.growing import differing_parameters

LOOKAHEAD: Final = 2
QUEUE_SIZE: Final = 64
_log = get_logger("foresight")


def expected(memory: RunMemory, snapshot: BlueprintSnapshot, rules: GrowthRules) -> list[Candidate]:
    """Return the first choices that a rule policy would make, one seed after the other, if all of them were kept."""
    seen, found = memory.now, []
    if seen is None or memory.plan is None:
        return []
    for _ in range(min(LOOKAHEAD, memory.plan.seeds_budget or LOOKAHEAD)):
        ranked = candidates(memory, seen, snapshot, rules, memory.seen_at_s)
        if not ranked:
            break
        found.append(ranked[0])
        seen = replace(seen, parameters=(seen.parameters or memory.plan.host_parameters) + ranked[0].parameters_added)
    return found


def request_of(run_id: str, choice: Candidate, plan: RunPlan, at: datetime) -> leyline.KernelPrefetchRequest:
    """Return the request for the kernel of a candidate."""
    site = next(one for one in plan.sites if one.name == choice.site)
    return leyline.KernelPrefetchRequest(
        version=leyline.LEYLINE_VERSION,
        request_id=new_id("prefetch"),
        training_run_id=run_id,
        blueprint_id=choice.blueprint_id,
        parameters=parameters_to_messages(choice.parameters),
        contract=contract_to_message(site.contract),
        requested_at=to_timestamp(at),
    )


class Foresight:
    """Asks for kernels in the background; a failure is told in the log and costs time later, nothing else.

    Parameters
    ----------
    catalogue : Catalogue
        The library.
    rules : GrowthRules
        Bounds of the policies.
    publish : callable
        Puts a request on the bus.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        rules: GrowthRules,
        publish: Callable[[leyline.KernelPrefetchRequest], Awaitable[object]],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._catalogue = catalogue
        self._rules = rules
        self._publish = publish
        self._clock = clock
        self._asked: set[str] = set()
        self._queue: asyncio.Queue[leyline.KernelPrefetchRequest] = asyncio.Queue(QUEUE_SIZE)

    def plan_came(self, memory: RunMemory) -> None:
        """Look ahead for a run, once."""
        plan = memory.plan
        if plan is None or plan.policy == NO_POLICY or memory.run_id in self._asked or memory.germinated:
            return
        snapshot = self._catalogue.snapshot()
        if len(self._asked) >= QUEUE_SIZE:
            self._asked.clear()
        self._asked.add(memory.run_id)
        for choice in expected(memory, snapshot, self._rules):
            if differing_parameters(choice, snapshot) and not self._queue.full():
                self._queue.put_nowait(request_of(memory.run_id, choice, plan, self._clock.wall()))

    async def run(self) -> None:
        """Publish requests until cancelled."""
        while True:
            request = await self._queue.get()
            try:
                await self._publish(request)
            except EsperError as error:
                _log.info("kernel not asked for", blueprint=request.blueprint_id, reason=error.message)
