"""What Kasmina tells the world about what happens in it: instruments for Prometheus, events for the bus."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatchmethod
from typing import Final, Protocol, TypeAlias

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.telemetry.prometheus import Instruments
from kasmina import facts as f
from kasmina.evidence import Evidence
from kasmina.gates import pooled
from kasmina.ledger import RunLedger
from kasmina.lifecycle import stage_name
from kasmina.reconcile import Note

Level: TypeAlias = leyline.TelemetryLevel.ValueType
INFO, WARNING = leyline.TELEMETRY_LEVEL_INFO, leyline.TELEMETRY_LEVEL_WARNING
ERROR, CRITICAL = leyline.TELEMETRY_LEVEL_ERROR, leyline.TELEMETRY_LEVEL_CRITICAL

_MEASURED: Final = ("gradient_norm", "isolation_cosine", "alpha_mean", "alpha_p95", "sparsity", "gate_mean", "compiled")
"""Figures of a seed that are told under their own name where they were measured."""


class TelemetrySink(Protocol):
    """Where events and points go; the emitter of esper_core is one. Nothing here waits."""

    def event(self, name: str, level: Level, description: str, *, run_id: str = "", **attributes: object) -> None:
        """Take an event."""

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        """Take a value."""


class Telemetry:
    """Turns facts into instruments and events."""

    def __init__(self, instruments: Instruments, sink: TelemetrySink) -> None:
        self.instruments = instruments
        self._sink = sink

    def event(self, name: str, level: Level, description: str, run_id: str = "", **attributes: object) -> None:
        """Tell that something happened."""
        self._sink.event(name, level, description, run_id=run_id, **attributes)

    def facts(self, facts: Iterable[f.Fact], ledger: RunLedger) -> None:
        """Tell what happened in a turn."""
        for fact in facts:
            self._tell(fact, ledger)

    def notes(self, notes: Iterable[Note], run_id: str) -> None:
        """Tell what differed between journal and runtime."""
        for note in notes:
            self.instruments.count("kasmina.reconcile.differences_total")
            sentence = f"{note.difference} {note.resolution}"
            self.event("seed_reconciled", WARNING, sentence, run_id, seed_id=note.seed_id)

    def breaker_moved(self, transition: Transition) -> None:
        """Tell that a breaker opened or closed; hand this method to it as `on_transition`."""
        opened = transition.to_state == leyline.CIRCUIT_STATE_OPEN
        self.instruments.gauge("kasmina.breaker.state", transition.to_state, breaker=transition.breaker)
        if opened:
            self.instruments.count("kasmina.breaker.opened_total", breaker=transition.breaker)
        sentence = f"Breaker {transition.breaker}: {transition.reason}"
        self.event("breaker_transition", ERROR if opened else INFO, sentence, breaker=transition.breaker)

    def evidence(self, evidence: Evidence, ledger: RunLedger, *, publish: bool = True) -> None:
        """Tell the figures of one seed.

        Parameters
        ----------
        evidence : Evidence
            What was measured.
        ledger : RunLedger
            The run.
        publish : bool
            False where something of this seed and step went to the bus already: a seed has one packet per step, and
            the emitter sends all its figures in it. Prometheus always shows the latest.
        """
        seed = ledger.seeds[evidence.seed_id]
        points: dict[str, float] = {"kasmina.seed.alpha": evidence.alpha, "kasmina.seed.stage": seed.stage}
        for name in _MEASURED:
            if (value := getattr(evidence, name)) is not None:
                points[f"kasmina.seed.{name}"] = float(value)
        if evidence.contribution is not None:
            points["kasmina.seed.contribution"] = pooled([evidence.contribution])[0]
        for name, value in points.items():
            self.instruments.gauge(name, value, site=seed.site)
            if publish:
                self._sink.gauge(name, value, run_id=evidence.run_id, seed_id=seed.seed_id, site=seed.site)
        attached = [one.evidence for one in ledger.seeds.values() if one.attached and one.evidence is not None]
        self.instruments.gauge("kasmina.isolation.violations", sum(one.isolation_violations for one in attached))
        self.instruments.gauge("kasmina.seeds.uncompiled", sum(one.compiled is False for one in attached))

    @singledispatchmethod
    def _tell(self, fact: object, ledger: RunLedger) -> None:
        """Stay silent about facts that only the journal needs."""

    @_tell.register
    def _(self, fact: f.CommandDecided, ledger: RunLedger) -> None:
        outcome = fact.outcome
        self.instruments.count("kasmina.commands_total", outcome="accepted" if outcome.accepted else "rejected")
        if outcome.accepted:
            attributes = {"command_id": outcome.command_id, "seed_id": outcome.seed_id}
            self.event("command_accepted", INFO, outcome.explanation, outcome.run_id, **attributes)
        else:
            self.rejected(outcome.command_id, outcome.run_id, outcome.reject_reason, outcome.explanation)

    def rejected(self, command_id: str, run_id: str, reason: int, explanation: str) -> None:
        """Tell that a command was rejected, whoever rejected it."""
        name = reason_name(reason)
        self.instruments.count("kasmina.command_verifier.rejected_total", reason=name)
        self.event("command_rejected", CRITICAL, explanation, run_id, command_id=command_id, reason=name)

    @_tell.register
    def _(self, fact: f.GateJudged, ledger: RunLedger) -> None:
        verdict = fact.verdict
        gate = leyline.SeedGate.Name(leyline.SeedGate.ValueType(verdict.gate)).removeprefix("SEED_GATE_")
        self.instruments.count("kasmina.gates_total", gate=gate, passed=str(verdict.passed).lower())
        name, level = ("gate_passed", INFO) if verdict.passed else ("gate_failure", CRITICAL)
        attributes = {"seed_id": fact.seed_id, "gate": gate, "reason": verdict.reason, "step": fact.step}
        self.event(name, level, verdict.explanation, fact.run_id, **attributes)

    @_tell.register
    def _(self, fact: f.StageMoved, ledger: RunLedger) -> None:
        before, after = stage_name(fact.from_stage), stage_name(fact.to_stage)
        self.instruments.count("kasmina.seed.transitions_total", from_stage=before, to_stage=after)
        self.instruments.gauge("kasmina.seed.stage", fact.to_stage, site=fact.site)
        attributes = {"seed_id": fact.seed_id, "from": before, "to": after, "step": fact.step}
        self.event("seed_transition", INFO, fact.reason, fact.run_id, command_id=fact.command_id, **attributes)

    @_tell.register
    def _(self, fact: f.DirectiveIssued, ledger: RunLedger) -> None:
        kind = leyline.DirectiveKind.Name(leyline.DirectiveKind.ValueType(fact.directive.kind))
        self.instruments.count("kasmina.directives_total", kind=kind.removeprefix("DIRECTIVE_KIND_"))

    @_tell.register
    def _(self, fact: f.DirectiveSettled, ledger: RunLedger) -> None:
        result = fact.result
        if result.kind == leyline.DIRECTIVE_KIND_ATTACH and result.applied:
            self.instruments.observe("kasmina.kernel.attach_ms", result.apply_ms)
        if result.applied:
            return
        kind = leyline.DirectiveKind.Name(leyline.DirectiveKind.ValueType(result.kind))
        if result.kind in (leyline.DIRECTIVE_KIND_PREPARE, leyline.DIRECTIVE_KIND_ATTACH):
            self.instruments.count("kasmina.kernel.failures_total", reason=result.error_code or "unknown")
        sentence = result.message or f"The runtime refused {kind}."
        attributes = {"seed_id": result.seed_id, "kind": kind, "code": result.error_code}
        self.event("directive_failed", ERROR, sentence, result.run_id, **attributes)

    @_tell.register
    def _(self, fact: f.MoveAbandoned, ledger: RunLedger) -> None:
        self.event("move_abandoned", CRITICAL, fact.why, ledger.run_id, seed_id=fact.seed_id)

    @_tell.register
    def _(self, fact: f.SeedClosed, ledger: RunLedger) -> None:
        self.event("seed_closed", INFO, fact.why, ledger.run_id, seed_id=fact.seed_id)

    @_tell.register
    def _(self, fact: f.TeacherReset, ledger: RunLedger) -> None:
        self.event("teacher_reset", WARNING, fact.reason, fact.run_id, teacher_id=fact.teacher_id)

    @_tell.register
    def _(self, fact: f.RunClosed, ledger: RunLedger) -> None:
        self.event("run_closed", INFO, fact.reason, fact.run_id, resumable=str(fact.resumable).lower())


def reason_name(reason: int) -> str:
    """Return the name of a reject reason without its prefix."""
    return leyline.RejectReason.Name(leyline.RejectReason.ValueType(reason)).removeprefix("REJECT_REASON_")
