"""Seeds, their moves and their gates."""

from __future__ import annotations

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2
from kasmina.convert.commands import outcome_to_message
from kasmina.convert.evidence import evidence_to_message
from kasmina.facts import GateJudged, StageMoved
from kasmina.gates import pooled
from kasmina.ledger import RunLedger
from kasmina.seeds import Seed


def transition_to_message(fact: StageMoved) -> leyline.SeedTransition:
    """Convert a move."""
    return leyline.SeedTransition(
        training_run_id=fact.run_id,
        seed_id=fact.seed_id,
        site=fact.site,
        blueprint_id=fact.blueprint_id,
        from_stage=leyline.SeedStage.ValueType(fact.from_stage),
        to_stage=leyline.SeedStage.ValueType(fact.to_stage),
        reason=fact.reason,
        command_id=fact.command_id,
        global_step=fact.step,
        occurred_at=to_timestamp(fact.at),
        parameter_count=fact.parameter_count,
    )


def gate_to_message(fact: GateJudged) -> leyline.GateResult:
    """Convert a verdict."""
    verdict = fact.verdict
    thresholds = [
        leyline.GateThreshold(name=one.name, observed=one.observed, limit=one.limit, passed=one.passed)
        for one in verdict.thresholds
    ]
    return leyline.GateResult(
        training_run_id=fact.run_id,
        seed_id=fact.seed_id,
        gate=leyline.SeedGate.ValueType(verdict.gate),
        passed=verdict.passed,
        reason=verdict.reason,
        explanation=verdict.explanation,
        thresholds=thresholds,
        missing_layers=verdict.missing_layers,
        evaluated_at=to_timestamp(fact.at),
        global_step=fact.step,
    )


def state_to_message(seed: Seed, ledger: RunLedger, risk_score: float) -> leyline.SeedState:
    """Convert a seed as it is now."""
    site = ledger.site(seed.site)
    per_epoch = ledger.opened.steps_per_epoch if ledger.opened else 1
    age = max(0, ledger.step - seed.germinated_step) if seed.attached else 0
    state = leyline.SeedState(
        seed_id=seed.seed_id,
        site=seed.site,
        stage=leyline.SeedStage.ValueType(seed.stage),
        blueprint_id=seed.blueprint_id,
        kernel_digest=seed.kernel_digest,
        alpha=seed.alpha,
        age_steps=age,
        age_epochs=age // max(1, per_epoch),
        parameter_count=seed.parameter_count,
        risk_score=risk_score,
        host_layers=[site.module_path] if site else [],
        stage_steps=seed.dwell(ledger.step),
        germinate_command_id=seed.germinate_command_id,
    )
    if seed.evidence is not None and seed.evidence.gradient_norm is not None:
        state.gradient_norm = seed.evidence.gradient_norm
    if seed.probes:
        state.contribution, state.contribution_low, state.contribution_high = pooled(seed.probes[-1:])
    return state


def record_to_message(seed: Seed, ledger: RunLedger, risk_score: float) -> kasmina_pb2.SeedRecord:
    """Convert everything that is known about a seed."""
    record = kasmina_pb2.SeedRecord(
        state=state_to_message(seed, ledger, risk_score),
        training_run_id=seed.run_id,
        transitions=[transition_to_message(move) for move in seed.transitions],
        gates=[gate_to_message(gate) for gate in seed.gates],
        commands=[outcome_to_message(outcome) for outcome in seed.outcomes],
    )
    if seed.evidence is not None:
        record.last_evidence.CopyFrom(evidence_to_message(seed.evidence))
    if seed.embargo is not None:
        record.embargo_until.CopyFrom(to_timestamp(seed.embargo.until))
    return record
