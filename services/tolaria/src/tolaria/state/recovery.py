"""What happens after a step that must not stand: go back, find who is to blame, give up after some times.

An unsettled seed is blamed first: from then on its evidence says that it was not finite, so that a gate culls it.
If the trouble comes again while the same seed is still there, because Kasmina is away or slow, the seed is taken out
here. With no seed to blame, the learning rate of every group is halved: the same steps would end the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tolaria.growth.book import SeedEntry
from tolaria.growth.operations import GrowthOperations
from tolaria.state.ring import SnapshotRing
from tolaria.state.rollback import Rollback
from tolaria.training.orders import RollbackDone
from tolaria.training.session import Session

_RATE_FACTOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did.

    Attributes
    ----------
    done : RollbackDone
        The rollback, its message telling who was blamed.
    detached : tuple[SeedEntry, ...]
        Seeds that were taken out here, as they were before.
    give_up : str
        Why the run must halt now, or empty.
    """

    done: RollbackDone
    detached: tuple[SeedEntry, ...] = ()
    give_up: str = ""


class Recovery:
    """Recovers a session from bad steps.

    Parameters
    ----------
    session : Session
        The run.
    rollback : Rollback
        Takes it back.
    ring : SnapshotRing
        Its newest snapshot is dropped after each use, so that trouble which comes again is met from further back.
    operations : GrowthOperations
        Takes seeds out.
    limit : int
        Automatic rollbacks after which the run halts.
    """

    def __init__(
        self, session: Session, rollback: Rollback, ring: SnapshotRing, operations: GrowthOperations, limit: int
    ) -> None:
        self._session = session
        self._rollback = rollback
        self._ring = ring
        self._operations = operations
        self._limit = limit
        self._made = 0

    def recover(self, problem: str) -> Recovered:
        """Go back and act on the cause."""
        suspects = {entry.seed_id: entry.rollbacks + 1 for entry in self._session.book.unsettled()}
        scale = self._session.learning_rate.state.scale
        done = self._rollback.go_back(problem)
        if not done.restored:
            return Recovered(done, give_up=f"After {problem} nothing could be restored: {done.message}")
        self._made += 1
        self._ring.drop_newest()
        detached = self._blame(suspects)
        if not suspects:
            self._slow_down(scale)
        told = replace(done, message=f"{done.message} {self._cause(suspects, detached)}")
        return Recovered(told, detached, self._verdict(problem))

    def _verdict(self, problem: str) -> str:
        if self._made <= self._limit:
            return ""
        return f"{self._made} rollbacks after {problem} did not help; the limit is {self._limit}."

    def _blame(self, suspects: dict[str, int]) -> tuple[SeedEntry, ...]:
        book = self._session.book
        detached: list[SeedEntry] = []
        for seed_id, times in suspects.items():
            if seed_id not in book.entries or not book.entries[seed_id].unsettled:
                continue
            entry = book.update(seed_id, finite=False, rollbacks=times)
            if times > 1:
                self._operations.detach(seed_id)
                detached.append(entry)
        return tuple(detached)

    def _slow_down(self, scale: float) -> None:
        """Halve the rate that led to the trouble, which the restored state may not know about."""
        rate = self._session.learning_rate
        rate.rescale(_RATE_FACTOR * scale / rate.state.scale)

    @staticmethod
    def _cause(suspects: dict[str, int], detached: tuple[SeedEntry, ...]) -> str:
        if detached:
            return f"Taken out: {', '.join(entry.seed_id for entry in detached)}."
        if suspects:
            return f"Suspected: {', '.join(suspects)}."
        return "No seed was unsettled; the learning rate is halved."
