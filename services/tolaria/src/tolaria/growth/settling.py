"""The last fence: seeds that are still unsettled get a bounded time for a decision, then they are taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, Deadline, to_timestamp
from tolaria.growth.book import SeedEntry
from tolaria.growth.operations import GrowthOperations
from tolaria.growth.pulse import Pulse
from tolaria.reporting.reporter import Reporter
from tolaria.training.links import Links
from tolaria.training.orders import Ending
from tolaria.training.session import Session

_BEAT_S: Final = 0.25


class LastFence:
    """Waits for decisions while probes run, then detaches the rest with exact restore.

    Parameters
    ----------
    session : Session
        The run, its budget spent.
    cross : callable
        Crosses the fence, which applies what comes in.
    pulse : Pulse
        Keeps evidence and boundaries coming, marked as final.
    operations : GrowthOperations
        Takes seeds out.
    links, reporter
        Where to look and whom to tell.
    limit_s : float
        Longest wait.
    """

    def __init__(
        self,
        session: Session,
        cross: Callable[[], Ending | None],
        pulse: Pulse,
        operations: GrowthOperations,
        links: Links,
        reporter: Reporter,
        limit_s: float,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._session = session
        self._cross = cross
        self._pulse = pulse
        self._operations = operations
        self._links = links
        self._reporter = reporter
        self._limit_s = limit_s
        self._clock = clock

    def settle(self) -> Ending | None:
        """Wait, then detach; returns an order to halt that came meanwhile, or None."""
        deadline = Deadline.after(self._limit_s, self._clock)
        while self._session.book.unsettled() and not deadline.passed:
            self._pulse.final_beat()
            self._reporter.final_record()
            self._links.inbox.wait(min(_BEAT_S, deadline.remaining_s))
            ending = self._cross()
            if ending is not None:
                return ending
        self._abort_rest()
        return None

    def _abort_rest(self) -> None:
        for entry in self._session.book.unsettled():
            reason = "Aborted: the run ended before a decision."
            abort_seed(self._session, self._operations, self._reporter, entry, "undecided", reason)


def abort_seed(
    session: Session, operations: GrowthOperations, reporter: Reporter, entry: SeedEntry, cause: str, reason: str
) -> None:
    """Take a seed out on the trainer's own account, restore the host exactly, and tell why."""
    operations.detach(entry.seed_id)
    tell_aborted(session, reporter, entry, cause, reason)


def tell_aborted(session: Session, reporter: Reporter, entry: SeedEntry, cause: str, reason: str) -> None:
    """Tell about a seed that was taken out here, with a word and a sentence; `entry` is as it was before."""
    session.book.update(entry.seed_id, settled_by=reason)
    reporter.tell(
        leyline.SeedTransition(
            training_run_id=session.plan.run_id,
            seed_id=entry.seed_id,
            site=entry.site,
            blueprint_id=entry.blueprint_id,
            from_stage=leyline.SeedStage.ValueType(entry.stage),
            to_stage=leyline.SEED_STAGE_CULLED,
            reason=reason,
            global_step=session.counters.step,
            occurred_at=to_timestamp(SYSTEM_CLOCK.wall()),
            parameter_count=entry.parameter_count,
            aborted_because=cause,
        )
    )
