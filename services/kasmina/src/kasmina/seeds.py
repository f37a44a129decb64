"""One seed: everything that Kasmina knows about it, and how each fact changes that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from kasmina.blend import Blend
from kasmina.commands import Outcome
from kasmina.directives import Directive
from kasmina.evidence import Evidence, Improvement, Probe
from kasmina.facts import GateJudged, SeedAdopted, SeedPlanted, StageMoved
from kasmina.gates.verdict import Verdict
from kasmina.kernels import Kernel
from kasmina.lifecycle import ATTACHED, CULLED, DORMANT, FOSSILIZED, SHADOWING, TERMINATED, require_legal

GATES_KEPT = 64
PROBES_KEPT = 16
LATENCIES_KEPT = 3
IMPROVEMENTS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Move:
    """Where a seed is on its way to."""

    to_stage: int
    reason: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Embargo:
    """When a pair of site and blueprint may meet again: at the earlier of a moment and an epoch."""

    site: str
    blueprint_id: str
    until: datetime
    until_epoch: int
    reason: str

    def over(self, now: datetime, epoch: int) -> bool:
        """Tell whether it has expired."""
        return now >= self.until or epoch >= self.until_epoch


@dataclass(frozen=True, slots=True)
class Seed:
    """The record of a seed. Stages are values of `leyline.SeedStage`; steps are optimizer steps of the run."""

    seed_id: str
    run_id: str
    site: str
    blueprint_id: str
    kernel: Kernel | None
    kernel_digest: str
    blend: Blend | None
    isolation: int
    germinate_command_id: str
    stage: int
    stage_step: int
    planted_step: int
    planted_at: datetime
    stage_epoch: int = 0
    germinated_step: int = 0
    germinated_epoch: int = 0
    alpha: float = 0.0
    parameter_count: int = 0
    closed: bool = False
    closed_why: str = ""
    move: Move | None = None
    pending: Directive | None = None
    attempt: int = 0
    gates_passed: tuple[int, ...] = ()
    hurried_by: str = ""
    settle_by: str = ""
    probes: tuple[Probe, ...] = ()
    improvements: tuple[Improvement, ...] = ()
    latencies_ms: tuple[float, ...] = ()
    evidence: Evidence | None = None
    removed_cleanly: bool | None = None
    left_behind: tuple[str, ...] = ()
    embargo: Embargo | None = None
    transitions: tuple[StageMoved, ...] = ()
    gates: tuple[GateJudged, ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    @property
    def attached(self) -> bool:
        """Whether the runtime holds it beside its host."""
        return self.stage in ATTACHED

    @property
    def live(self) -> bool:
        """Whether it occupies its run's attention: being prepared, attached, or not yet detached."""
        preparing = self.stage == DORMANT and not self.closed
        return preparing or self.attached or (self.stage == CULLED and not self.closed)

    @property
    def settled(self) -> bool:
        """Whether its fate is decided."""
        return not self.live

    @property
    def kept(self) -> bool:
        """Whether it is part of its host, also after its run."""
        before = self.transitions[-1].from_stage if self.stage == TERMINATED else self.stage
        return before == FOSSILIZED

    def dwell(self, step: int) -> int:
        """Return the steps spent in its stage; a run that went back in time does not make it negative."""
        return max(0, step - self.stage_step)

    def moved(self, fact: StageMoved) -> Seed:
        """Return the seed after a move.

        Raises
        ------
        StateConflictError
            If the lifecycle does not have that move.
        """
        require_legal(self.stage, fact.to_stage)
        after = replace(
            self._entered(fact.to_stage, fact.step, fact.epoch),
            parameter_count=fact.parameter_count or self.parameter_count,
            transitions=(*self.transitions, fact),
        )
        if self.stage == DORMANT:
            return replace(after, germinated_step=fact.step, germinated_epoch=fact.epoch)
        return after

    def _entered(self, stage: int, step: int, epoch: int) -> Seed:
        """Reset what belongs to one stage only, also a directive; probes of SHADOWING still count in PROBATIONARY."""
        return replace(
            self,
            stage=stage,
            stage_step=step,
            stage_epoch=epoch,
            move=None,
            pending=None,
            attempt=0,
            gates_passed=(),
            hurried_by="",
            probes=self.probes if stage > SHADOWING else (),
            improvements=self.improvements if stage > SHADOWING else (),
        )

    def adopted(self, fact: SeedAdopted) -> Seed:
        """Return the seed as the runtime has it; what was under way is forgotten."""
        entered = self._entered(fact.stage, fact.step, self.stage_epoch)
        return replace(
            entered,
            alpha=fact.alpha,
            settle_by="",
            probes=(),
            improvements=(),
            closed=False,
            parameter_count=fact.parameter_count or self.parameter_count,
        )

    def judged(self, fact: GateJudged) -> Seed:
        """Return the seed with a verdict on record."""
        passed = (*self.gates_passed, fact.verdict.gate) if fact.verdict.passed else self.gates_passed
        return replace(self, gates=(*self.gates, fact)[-GATES_KEPT:], gates_passed=passed)

    def has_passed(self, verdict: Verdict, step: int) -> bool:
        """Tell whether a verdict says what is on record of this stage and step already."""
        last = next((judged for judged in reversed(self.gates) if judged.verdict.gate == verdict.gate), None)
        again = last is not None and last.step == step and last.verdict.passed
        return again and verdict.passed and verdict.gate in self.gates_passed

    def told(self, evidence: Evidence) -> Seed:
        """Return the seed with its last evidence; a probe counts only once per step and only in its own stage."""
        after = replace(
            self, evidence=evidence, alpha=evidence.alpha, latencies_ms=_latest(self.latencies_ms, evidence.latency_ms)
        )
        probe = evidence.contribution
        if probe is None or evidence.stage < SHADOWING or any(known.step == probe.step for known in self.probes):
            return after
        told = (*self.improvements, evidence.improvement) if evidence.improvement is not None else self.improvements
        return replace(after, probes=(*self.probes, probe)[-PROBES_KEPT:], improvements=told[-IMPROVEMENTS_KEPT:])

    @property
    def improvement(self) -> Improvement | None:
        """The middle one of the last three, the better of two: a loss that leaps for a step says nothing of a seed."""
        known = sorted(self.improvements, key=lambda one: one.improvement)
        return known[len(known) // 2] if known else None

    def steadied(self, evidence: Evidence) -> Evidence:
        """Return evidence with the least of the last latencies: a single slow step says nothing about the seed."""
        return replace(evidence, latency_ms=min(self.latencies_ms, default=None))


def _latest(known: tuple[float, ...], latency_ms: float | None) -> tuple[float, ...]:
    return known if latency_ms is None else (*known, latency_ms)[-LATENCIES_KEPT:]


def planted(fact: SeedPlanted, run_id: str) -> Seed:
    """Return the record of an accepted germination."""
    return Seed(
        seed_id=fact.seed_id,
        run_id=run_id,
        site=fact.site,
        blueprint_id=fact.blueprint_id,
        kernel=fact.kernel,
        kernel_digest=fact.kernel.weights_digest,
        blend=fact.blend,
        isolation=fact.isolation,
        germinate_command_id=fact.command_id,
        stage=DORMANT,
        stage_step=fact.step,
        planted_step=fact.step,
        planted_at=fact.at,
        parameter_count=fact.kernel.parameter_count,
    )


def taken_over(fact: SeedAdopted, run_id: str) -> Seed:
    """Return the record of a seed that only the runtime knew."""
    return Seed(
        seed_id=fact.seed_id,
        run_id=run_id,
        site=fact.site,
        blueprint_id=fact.blueprint_id,
        kernel=None,
        kernel_digest=fact.kernel_digest,
        blend=None,
        isolation=0,
        germinate_command_id="",
        stage=fact.stage,
        stage_step=fact.step,
        planted_step=fact.step,
        planted_at=fact.at,
        alpha=fact.alpha,
        parameter_count=fact.parameter_count,
    )
