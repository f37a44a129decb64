"""The state of one run: the fold of its facts, plus the clock readings that come with every message."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod

from esper_core.errors import InternalError
from kasmina import facts as f
from kasmina.directives import leaves_nothing
from kasmina.evidence import Evidence
from kasmina.seeds import Embargo, Move, Seed, planted, taken_over
from kasmina.sites import Site


class RunLedger:
    """What Kasmina knows about one run.

    Attributes
    ----------
    opened : RunOpened or None
        What the runtime said about itself; None before the first hello.
    step, epoch, generation : int
        Last reading; not journalled, because the next hello brings them again.
    total_steps : int
        Planned steps of the run, likewise the last reading: where FLOPs are bounded they become fewer as a host grows.
    final : bool
        Whether the run waits at its last fence.
    teacher_id : str
        Teacher that takes part, by the last hello; there is one at most, and a new one replaces it.
    dismissed : TeacherReset or None
        The last reset, which a runtime may not have heard.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.opened: f.RunOpened | None = None
        self.ended: f.RunClosed | None = None
        self.step = 0
        self.epoch = 0
        self.generation = 0
        self.total_steps = 0
        self.final = False
        self.seeds: dict[str, Seed] = {}
        self.embargoes: dict[tuple[str, str], Embargo] = {}
        self.outcomes: dict[str, bool] = {}
        self.teacher_id = ""
        self.dismissed: f.TeacherReset | None = None

    def site(self, name: str) -> Site | None:
        """Return a site by name."""
        sites = self.opened.sites if self.opened else ()
        return next((site for site in sites if site.name == name), None)

    def live_seeds(self) -> tuple[Seed, ...]:
        """Return the seeds whose fate is open."""
        return tuple(seed for seed in self.seeds.values() if seed.live)

    def seeds_at(self, site: str) -> tuple[Seed, ...]:
        """Return all seeds that were ever planted at a site."""
        return tuple(seed for seed in self.seeds.values() if seed.site == site)

    def next_seed_id(self, site: str) -> str:
        """Return the id of the next seed at a site, `<run>/<site>/<n>`."""
        taken = [int(seed.seed_id.rsplit("/", 1)[1]) for seed in self.seeds_at(site)]
        return f"{self.run_id}/{site}/{max(taken, default=0) + 1}"

    def read_clock(self, step: int, generation: int, epoch: int | None = None) -> None:
        """Take over step, epoch and generation from a message of the runtime, whose truth they are."""
        self.step = step
        self.generation = generation
        self.epoch = self.epoch if epoch is None else epoch

    def take_evidence(self, evidence: Evidence) -> None:
        """Remember the last evidence of a seed; only what a verdict may rest on is journalled, as `EvidenceKept`."""
        self.seeds[evidence.seed_id] = self.seeds[evidence.seed_id].told(evidence)
        if evidence.steps_remaining is not None:
            self.total_steps = max(1, evidence.step + evidence.steps_remaining)

    def apply(self, fact: f.Fact) -> None:
        """Fold one fact into the state."""
        self._apply(fact)

    def _change(self, seed_id: str, **fields: object) -> None:
        self.seeds[seed_id] = replace(self.seeds[seed_id], **fields)  # type: ignore[arg-type]

    @singledispatchmethod
    def _apply(self, fact: object) -> None:
        raise InternalError(f"No rule says what {type(fact).__name__} means for a run.")

    @_apply.register
    def _(self, fact: f.RunOpened) -> None:
        self.opened, self.ended, self.final, self.teacher_id = fact, None, False, fact.teacher_id
        self.total_steps = fact.total_steps
        self.read_clock(fact.step, fact.generation, fact.step // max(1, fact.steps_per_epoch))

    @_apply.register
    def _(self, fact: f.SeedPlanted) -> None:
        self.seeds[fact.seed_id] = planted(fact, self.run_id)

    @_apply.register
    def _(self, fact: f.SeedAdopted) -> None:
        known = self.seeds.get(fact.seed_id)
        self.seeds[fact.seed_id] = known.adopted(fact) if known else taken_over(fact, self.run_id)

    @_apply.register
    def _(self, fact: f.MovePlanned) -> None:
        self._change(fact.seed_id, move=Move(fact.to_stage, fact.reason, fact.command_id), attempt=0)

    @_apply.register
    def _(self, fact: f.MoveAbandoned) -> None:
        self._change(fact.seed_id, move=None, pending=None, settle_by="")

    @_apply.register
    def _(self, fact: f.DirectiveIssued) -> None:
        self._change(fact.directive.seed_id, pending=fact.directive, attempt=fact.attempt)

    @_apply.register
    def _(self, fact: f.DirectiveSettled) -> None:
        result = fact.result
        self.read_clock(result.step, result.generation)
        seed = self.seeds[result.seed_id]
        count = result.parameter_count or seed.parameter_count
        self._change(result.seed_id, pending=None, parameter_count=count)
        clean = leaves_nothing(result)
        if clean is not None:
            self._change(result.seed_id, removed_cleanly=clean, left_behind=result.left_behind)

    @_apply.register
    def _(self, fact: f.GateJudged) -> None:
        if fact.seed_id in self.seeds:
            self.seeds[fact.seed_id] = self.seeds[fact.seed_id].judged(fact)

    @_apply.register
    def _(self, fact: f.StageMoved) -> None:
        self.read_clock(fact.step, self.generation, fact.epoch)
        self.seeds[fact.seed_id] = self.seeds[fact.seed_id].moved(fact)

    @_apply.register
    def _(self, fact: f.EvidenceKept) -> None:
        self.take_evidence(fact.evidence)

    @_apply.register
    def _(self, fact: f.BlendChosen) -> None:
        self._change(fact.seed_id, blend=fact.blend)

    @_apply.register
    def _(self, fact: f.WishNoted) -> None:
        field = "hurried_by" if fact.wish == "advance" else "settle_by"
        self._change(fact.seed_id, **{field: fact.command_id})

    @_apply.register
    def _(self, fact: f.PairEmbargoed) -> None:
        embargo = Embargo(fact.site, fact.blueprint_id, fact.until, fact.until_epoch, fact.reason)
        self.embargoes[fact.site, fact.blueprint_id] = embargo
        self._change(fact.seed_id, embargo=embargo)

    @_apply.register
    def _(self, fact: f.SeedClosed) -> None:
        self._change(fact.seed_id, closed=True, closed_why=fact.why, move=None, pending=None)

    @_apply.register
    def _(self, fact: f.CommandDecided) -> None:
        outcome = fact.outcome
        self.outcomes[outcome.command_id] = outcome.accepted
        if outcome.seed_id in self.seeds:
            seed = self.seeds[outcome.seed_id]
            self._change(outcome.seed_id, outcomes=(*seed.outcomes, outcome)[-64:])

    @_apply.register
    def _(self, fact: f.TeacherReset) -> None:
        self.teacher_id, self.dismissed = "", fact

    @_apply.register
    def _(self, fact: f.RunClosed) -> None:
        self.ended, self.teacher_id = fact, ""
