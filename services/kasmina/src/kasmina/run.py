"""The state machine of one run: messages of the runtime in, facts out. Deterministic; time and ids are passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.errors import StateConflictError, ValidationError
from esper_core.ids import new_id
from kasmina import facts as f
from kasmina.commands import Command, Outcome
from kasmina.directives import DirectiveResult
from kasmina.evidence import Evidence
from kasmina.ledger import RunLedger
from kasmina.lifecycle import CULLED, DORMANT, FOSSILIZED, TERMINATED
from kasmina.moves import press_on, settle
from kasmina.operations import Decision, Supply, carry_out
from kasmina.progress import consider, let_time_pass
from kasmina.reconcile import Held, Note, reconcile
from kasmina.rules import Rules
from kasmina.seeds import Seed
from kasmina.sites import Site
from kasmina.turn import Turn
from kasmina.validator import CommandValidator

Facts = tuple[f.Fact, ...]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a runtime says about itself when it connects."""

    run_id: str
    generation: int
    inventory: tuple[Held, ...]
    sites: tuple[Site, ...]
    blueprint_ids: tuple[str, ...]
    total_steps: int
    step: int
    steps_per_epoch: int
    isolation: int
    host_layers: tuple[str, ...]
    allow_restricted: bool = False
    teacher_id: str = ""


@dataclass(frozen=True, slots=True)
class Reception:
    """Answer to a greeting: whether the run was known, and what differed."""

    known_run: bool
    notes: tuple[Note, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Boundary:
    """A step or epoch boundary, so that time passes."""

    step: int
    epoch: int
    generation: int
    epoch_end: bool
    final: bool


class RunExecutor:
    """The state machine of one run.

    Every method takes one input and returns the facts that follow from it, in order; the caller journals them before
    it tells anybody.

    Parameters
    ----------
    run_id : str
        The run.
    rules : Rules
        Bounds.
    validator : CommandValidator
        Says whether a command makes sense.
    clock : Clock
        Wall time.
    mint : callable
        Makes directive ids.
    """

    def __init__(
        self,
        run_id: str,
        rules: Rules,
        validator: CommandValidator,
        clock: Clock,
        mint: Callable[[], str] = lambda: new_id("directive"),
    ) -> None:
        self.ledger = RunLedger(run_id)
        self._rules = rules
        self._validator = validator
        self._clock = clock
        self._mint = mint

    def replay(self, facts: Iterable[f.Fact]) -> int:
        """Take up the facts of an earlier life; return their number."""
        count = 0
        for count, fact in enumerate(facts, 1):  # noqa: B007 - the number is the answer
            self.ledger.apply(fact)
        return count

    def hello(self, greeting: Greeting) -> Reception:
        """Receive a runtime and reconcile with it.

        Raises
        ------
        ValidationError
            If the greeting lacks what the lifecycle is measured in.
        """
        _check_greeting(greeting)
        known = self.ledger.opened is not None
        turn = self._turn()
        turn.emit(_opened(greeting, turn))
        self._dismiss_again(turn)
        notes = reconcile(turn, greeting.inventory)
        return Reception(known, notes, tuple(turn.facts))

    def command(self, command: Command, supply: Supply) -> Facts:
        """Validate a verified command and carry it out; the last fact is its outcome."""
        turn = self._turn()
        validation = self._validator.validate(command, self.ledger, turn.now)
        if validation.ok:
            decision = carry_out(turn, command, supply)
            reason = 0 if decision.accepted else leyline.REJECT_REASON_VALIDATION_FAILED
        else:
            decision, reason = Decision(False, validation.explanation, command.seed_id), validation.reason
        self._conclude(turn, command, decision, reason)
        return tuple(turn.facts)

    def evidence(self, evidence: Evidence) -> Facts:
        """Take evidence of a seed and move it on where that follows.

        Raises
        ------
        StateConflictError
            If the journal has no such seed under way.
        """
        seed = self.ledger.seeds.get(evidence.seed_id)
        if seed is None:
            raise StateConflictError(f"There is evidence of seed {evidence.seed_id!r}, which is not on record.")
        self.ledger.read_clock(evidence.step, self.ledger.generation, evidence.epoch)
        turn = self._turn()
        if evidence.contribution is not None:
            turn.emit(f.EvidenceKept(evidence))
        else:
            self.ledger.take_evidence(evidence)
        consider(turn, evidence.seed_id, evidence, fresh=evidence.contribution is not None)
        return tuple(turn.facts)

    def result(self, result: DirectiveResult) -> Facts:
        """Take the runtime's answer to a directive."""
        turn = self._turn()
        settle(turn, result)
        return tuple(turn.facts)

    def boundary(self, boundary: Boundary) -> Facts:
        """Let time pass."""
        self.ledger.read_clock(boundary.step, boundary.generation, boundary.epoch)
        self.ledger.final = boundary.final
        turn = self._turn()
        let_time_pass(turn)
        press_on(turn, boundary.epoch_end)
        return tuple(turn.facts)

    def ended(self, reason: str, resumable: bool) -> Facts:
        """Close the run; what is not settled is culled, because the runtime has detached it."""
        turn = self._turn()
        if not resumable:
            for seed in tuple(self.ledger.seeds.values()):
                _end(turn, seed, reason)
        turn.emit(f.RunClosed(self.ledger.run_id, reason, resumable, turn.now))
        return tuple(turn.facts)

    def reset_teacher(self, reason: str) -> Facts:
        """Let the teacher go; nothing follows where there is none."""
        turn, teacher_id = self._turn(), self.ledger.teacher_id
        if teacher_id:
            turn.emit(f.TeacherReset(self.ledger.run_id, teacher_id, reason, turn.now))
        return tuple(turn.facts)

    def _dismiss_again(self, turn: Turn) -> None:
        """Repeat a reset to a runtime that still has the teacher: the conversation broke before it heard."""
        last = self.ledger.dismissed
        if last is not None and last.teacher_id == self.ledger.teacher_id:
            turn.emit(replace(last, at=turn.now))

    def _turn(self) -> Turn:
        return Turn(self.ledger, self._rules, self._clock.wall(), self._mint)

    @staticmethod
    def _conclude(turn: Turn, command: Command, decision: Decision, reason: int) -> None:
        outcome = Outcome(
            command_id=command.command_id,
            run_id=command.run_id,
            accepted=decision.accepted,
            reject_reason=reason,
            explanation=decision.explanation,
            seed_id=decision.seed_id,
            decided_at=turn.now,
        )
        turn.emit(f.CommandDecided(outcome))


def _end(turn: Turn, seed: Seed, reason: str) -> None:
    """Bring a seed to its end with its run: kept for good, culled with the host restored, or never attached."""
    if seed.stage == FOSSILIZED:
        turn.move(seed.seed_id, TERMINATED, f"The run ended ({reason}) and the seed stays part of its host.")
    if not seed.live:
        return
    why = f"The run ended ({reason}) before it was settled."
    if seed.attached:
        turn.move(seed.seed_id, CULLED, why)
    elif seed.stage == DORMANT:
        turn.move(seed.seed_id, TERMINATED, why)
    turn.close(seed.seed_id, why)


def _check_greeting(greeting: Greeting) -> None:
    if greeting.total_steps < 1:
        raise ValidationError("total_steps is 0; dwell is measured in it.", field="total_steps", allowed="1 or more")
    if greeting.steps_per_epoch < 1:
        raise ValidationError("steps_per_epoch is 0.", field="steps_per_epoch", allowed="1 or more")
    names = [site.name for site in greeting.sites]
    if len(names) != len(set(names)):
        raise ValidationError("Two sites share a name.", field="sites", allowed="unique names")


def _opened(greeting: Greeting, turn: Turn) -> f.RunOpened:
    return f.RunOpened(
        run_id=greeting.run_id,
        sites=greeting.sites,
        blueprint_ids=greeting.blueprint_ids,
        total_steps=greeting.total_steps,
        steps_per_epoch=greeting.steps_per_epoch,
        isolation=greeting.isolation,
        host_layers=greeting.host_layers,
        generation=greeting.generation,
        step=greeting.step,
        at=turn.now,
        allow_restricted=greeting.allow_restricted,
        teacher_id=greeting.teacher_id,
    )
