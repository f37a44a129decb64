"""All runs that Kasmina knows, brought back from their journals when they are asked for."""

from __future__ import annotations

from esper_core.clocks import Clock
from esper_core.errors import NotFoundError, StateConflictError
from esper_core.ids import parse_seed_id
from kasmina.journal import JournalFolder
from kasmina.rules import Rules
from kasmina.run import RunExecutor
from kasmina.seeds import Seed
from kasmina.session import RunSession
from kasmina.telemetry import Telemetry
from kasmina.validator import CommandValidator


class RunRegistry:
    """Sessions by run id; one that broke is thrown away and read from disk again."""

    def __init__(
        self, folder: JournalFolder, rules: Rules, validator: CommandValidator, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._folder = folder
        self._rules = rules
        self._validator = validator
        self._telemetry = telemetry
        self._clock = clock
        self._sessions: dict[str, RunSession] = {}

    def open(self, run_id: str) -> RunSession:
        """Return the session of a run, known or new."""
        session = self._sessions.get(run_id)
        if session is not None and session.broken:
            session.close()
            session = None
        if session is None:
            session = self._sessions[run_id] = self._restored(run_id)
        return session

    def find(self, run_id: str) -> RunSession:
        """Return the session of a known run.

        Raises
        ------
        NotFoundError
            If there is no journal of it.
        """
        if run_id not in self._sessions and run_id not in self._folder.run_ids():
            raise NotFoundError(f"Kasmina knows no run {run_id!r}. `esper run list` shows the runs.")
        return self.open(run_id)

    def all(self) -> tuple[RunSession, ...]:
        """Return the sessions of all known runs."""
        return tuple(self.open(run_id) for run_id in sorted({*self._folder.run_ids(), *self._sessions}))

    def seed(self, seed_id: str) -> tuple[Seed, RunSession]:
        """Return a seed and its run.

        Raises
        ------
        NotFoundError
            If there is none of that id.
        """
        session = self.find(parse_seed_id(seed_id).run_id)
        seed = session.executor.ledger.seeds.get(seed_id)
        if seed is None:
            known = ", ".join(sorted(session.executor.ledger.seeds)) or "none"
            raise NotFoundError(f"There is no seed {seed_id!r}; the run has {known}.")
        return seed, session

    def forget(self, run_id: str) -> int:
        """Forget a run that has ended and return the number of its seeds.

        Raises
        ------
        StateConflictError
            If its runtime is connected or has not said that it ended.
        """
        session = self.find(run_id)
        ledger = session.executor.ledger
        if session.connected or (ledger.ended is None and ledger.live_seeds()):
            raise StateConflictError(f"Run {run_id} is still under way. Halt it first.")
        session.close()
        self._folder.remove_run(run_id)
        del self._sessions[run_id]
        self.tell_active()
        return len(ledger.seeds)

    def tell_active(self) -> None:
        """Tell how many seeds are under way."""
        live = sum(len(session.executor.ledger.live_seeds()) for session in self._sessions.values())
        self._telemetry.instruments.gauge("kasmina.seeds.active", live)

    def close(self) -> None:
        """Let go of all journals."""
        for session in self._sessions.values():
            session.close()

    def _restored(self, run_id: str) -> RunSession:
        journal = self._folder.open_run(run_id)
        executor = RunExecutor(run_id, self._rules, self._validator, self._clock)
        executor.replay(journal.facts)
        return RunSession(executor, journal, self._telemetry)
