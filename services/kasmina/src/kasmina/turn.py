"""One turn of a run's state machine: an input comes in, facts come out, and the state is their fold at every moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from esper_core import leyline
from kasmina import facts as f
from kasmina.directives import NO_DETAILS, Details, Directive
from kasmina.gates import Verdict
from kasmina.ledger import RunLedger
from kasmina.lifecycle import CULLED
from kasmina.rules import Rules
from kasmina.seeds import Seed


@dataclass(slots=True)
class Turn:
    """The desk on which one input is worked off.

    Attributes
    ----------
    ledger : RunLedger
        The state; changes only through `emit`.
    now : datetime
        Wall time of the whole turn.
    mint : callable
        Makes directive ids.
    facts : list
        What happened in this turn, in order.
    """

    ledger: RunLedger
    rules: Rules
    now: datetime
    mint: Callable[[], str]
    facts: list[f.Fact] = field(default_factory=list)

    def emit(self, fact: f.Fact) -> None:
        """Fold a fact into the state and keep it for the journal."""
        self.ledger.apply(fact)
        self.facts.append(fact)

    def seed(self, seed_id: str) -> Seed:
        """Return the present record of a seed."""
        return self.ledger.seeds[seed_id]

    def judge(self, seed_id: str, verdict: Verdict) -> Verdict:
        """Put a verdict on record and return it; what passed at this boundary already stands and is not told twice."""
        known = self.ledger.seeds.get(seed_id)
        if known is None or not known.has_passed(verdict, self.ledger.step):
            self.emit(f.GateJudged(self.ledger.run_id, seed_id, verdict, self.ledger.step, self.now))
        return verdict

    def move(self, seed_id: str, to_stage: int, reason: str, command_id: str = "") -> None:
        """Move a seed to another stage.

        Raises
        ------
        StateConflictError
            If the lifecycle does not have that move.
        """
        seed = self.seed(seed_id)
        self.emit(
            f.StageMoved(
                run_id=self.ledger.run_id,
                seed_id=seed_id,
                site=seed.site,
                blueprint_id=seed.blueprint_id,
                from_stage=seed.stage,
                to_stage=to_stage,
                reason=reason,
                command_id=command_id,
                step=self.ledger.step,
                epoch=self.ledger.epoch,
                at=self.now,
                parameter_count=seed.parameter_count,
            )
        )

    def issue(
        self,
        seed_id: str,
        kind: int,
        reason: str,
        *,
        command_id: str = "",
        attempt: int = 1,
        details: Details = NO_DETAILS,
    ) -> None:
        """Tell the runtime to do something, on the present generation."""
        directive = Directive(
            directive_id=self.mint(),
            run_id=self.ledger.run_id,
            seed_id=seed_id,
            site=self.seed(seed_id).site,
            kind=kind,
            generation=self.ledger.generation,
            deadline=self.now + timedelta(seconds=self.rules.directive_timeout_s),
            command_id=command_id,
            reason=reason,
            details=details,
        )
        self.emit(f.DirectiveIssued(directive, attempt))

    def cull(self, seed_id: str, reason: str, command_id: str = "") -> None:
        """Remove an attached seed: CULLED at once, its pair embargoed, and the host restored at the next fence."""
        self.move(seed_id, CULLED, reason, command_id)
        self.embargo(seed_id, reason)
        self.issue(seed_id, leyline.DIRECTIVE_KIND_DETACH, reason, command_id=command_id)

    def embargo(self, seed_id: str, reason: str) -> None:
        """Keep the seed's site and blueprint apart for a while."""
        seed = self.seed(seed_id)
        self.emit(
            f.PairEmbargoed(
                seed_id=seed_id,
                site=seed.site,
                blueprint_id=seed.blueprint_id,
                until=self.now + timedelta(seconds=self.rules.embargo_s),
                until_epoch=self.ledger.epoch + self.rules.embargo_epochs,
                reason=reason,
            )
        )

    def close(self, seed_id: str, why: str) -> None:
        """End the record of a seed."""
        self.emit(f.SeedClosed(seed_id, why, self.now))
