"""From an evaluation to the messages that leave: signed command, no-action or typed failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from esper_core import leyline
from esper_core.blueprints.messages import parameters_to_messages
from esper_core.clocks import to_timestamp
from esper_core.errors import DependencyViolationError, EsperError
from esper_core.guard import require_id
from tamiyo.actions import ACTION_IDS, Action
from tamiyo.coverage import Coverage
from tamiyo.evaluation import Evaluation
from tamiyo.observation import Observation
from tamiyo.risk import Finding

ISSUER = "tamiyo"

_OPERATIONS = {
    "GERMINATE": leyline.SEED_OPERATION_GERMINATE,
    "ADVANCE": leyline.SEED_OPERATION_ADVANCE,
    "FOSSILIZE": leyline.SEED_OPERATION_FOSSILIZE,
    "CULL": leyline.SEED_OPERATION_CULL,
}


@dataclass(frozen=True, slots=True)
class Occasion:
    """What identifies one evaluation; `decision_id` was minted when it started."""

    decision_id: str
    seen: Observation
    digest: str
    at: datetime
    deadline_s: float


def command_of(
    occasion: Occasion, evaluation: Evaluation, metadata: leyline.DecisionMetadata
) -> leyline.AdaptationCommand:
    """Build the command of an action that does something; it is not signed yet.

    Raises
    ------
    DependencyViolationError
        If the id of run, seed, site or blueprint is missing.
    """
    action, seen = evaluation.action, occasion.seen
    command = leyline.AdaptationCommand(
        version=leyline.LEYLINE_VERSION,
        command_id=require_id("command_id", occasion.decision_id),
        training_run_id=require_id("training_run_id", seen.run_id),
        based_on_generation=seen.generation,
        execution_deadline=to_timestamp(occasion.at + timedelta(seconds=occasion.deadline_s)),
        issued_by=ISSUER,
        metadata=metadata,
        decided_at_step=seen.step,
    )
    if action.kind == "OPTIMIZER":
        command.type = leyline.COMMAND_TYPE_OPTIMIZER
        command.optimizer.learning_rate_factor = action.learning_rate_factor
        return command
    if action.kind not in _OPERATIONS:
        raise DependencyViolationError(f"No command carries {action.kind}.", dependency="seed_operation")
    command.type = leyline.COMMAND_TYPE_SEED
    if action.grows:
        command.target_site = require_id("target_site", action.site)
        command.seed_operation.CopyFrom(_germination(action))
    else:
        command.target_seed_id = require_id("target_seed_id", action.seed_id)
        command.seed_operation.operation = _OPERATIONS[action.kind]
    return command


def _germination(action: Action) -> leyline.CommandSeedOperation:
    blend = leyline.BlendConfig(
        mode=leyline.BlendMode.ValueType(action.blend.mode),
        target_alpha=action.blend.target_alpha,
        schedule=leyline.AlphaSchedule.ValueType(action.blend.schedule),
        end_steps=action.blend.ramp_steps,
        source=ISSUER,
    )
    return leyline.CommandSeedOperation(
        operation=leyline.SEED_OPERATION_GERMINATE,
        blueprint_id=require_id("blueprint_id", action.blueprint_id),
        parameters=parameters_to_messages(action.parameters),
        blend=blend,
    )


def metadata_of(evaluation: Evaluation, digest: str, coverage: Coverage, elapsed_ms: float) -> leyline.DecisionMetadata:
    """Return why a decision came to be; `policy` speaks of what was proposed, `risk` of what became of it."""
    proposed, judgement = evaluation.proposed, evaluation.judgement
    policy = leyline.PolicyMetadata(
        policy_name=evaluation.policy_name,
        policy_version=evaluation.policy_version,
        action_id=ACTION_IDS[proposed.kind],
        risk_score=proposed.risk.score,
        risk_index=proposed.risk.index,
        graph_digest=digest,
        rationale=proposed.rationale,
    )
    risk = leyline.RiskMetadata(
        reason=leyline.RiskReason.ValueType(judgement.reason),
        findings=[_finding(finding) for finding in judgement.findings],
        conservative_mode=evaluation.conservative,
    )
    return leyline.DecisionMetadata(
        policy=policy,
        risk=risk,
        coverage=_coverage(coverage),
        selection=_selection(proposed),
        evaluation_ms=elapsed_ms,
    )


def _finding(finding: Finding) -> leyline.RiskFinding:
    return leyline.RiskFinding(
        evaluator=finding.evaluator,
        reason=leyline.RiskReason.ValueType(finding.reason),
        explanation=finding.explanation,
        observed=finding.observed,
        threshold=finding.threshold,
        changed_command=finding.changed,
    )


def _selection(action: Action) -> leyline.SelectionContext:
    return leyline.SelectionContext(
        seed_id=action.seed_id,
        site=action.site,
        blueprint_id=action.blueprint_id,
        candidates=[
            leyline.CandidateScore(site=one.site, blueprint_id=one.blueprint_id, score=one.score, reason=one.reason)
            for one in action.candidates
        ],
    )


def _coverage(coverage: Coverage) -> leyline.CoverageSummary:
    groups: Iterable[tuple[str, float]] = coverage.groups
    return leyline.CoverageSummary(
        average=coverage.average,
        minimum=coverage.minimum,
        maximum=coverage.maximum,
        groups=[leyline.CoverageGroup(group=name, coverage=share) for name, share in groups],
        missing=coverage.missing,
    )


def decision_of(occasion: Occasion) -> leyline.Decision:
    """Return the frame of a decision, still without an outcome."""
    return leyline.Decision(
        version=leyline.LEYLINE_VERSION,
        decision_id=occasion.decision_id,
        packet_id=occasion.seen.packet_id,
        training_run_id=occasion.seen.run_id,
        decided_at=to_timestamp(occasion.at),
    )


def no_action_of(evaluation: Evaluation, metadata: leyline.DecisionMetadata) -> leyline.NoAction:
    """Return why nothing is to be done."""
    action = evaluation.action
    return leyline.NoAction(reason=action.reason, explanation=action.rationale, metadata=metadata)


def failure_of(
    decision_id: str, packet: leyline.SystemStatePacket, error: EsperError, at: datetime
) -> leyline.Decision:
    """Return the typed failure of a packet that could not be judged; nothing is made up in its place."""
    return leyline.Decision(
        version=leyline.LEYLINE_VERSION,
        decision_id=decision_id,
        packet_id=packet.packet_id,
        training_run_id=packet.training_run_id,
        failure=leyline.EvaluationFailure(code=error.code, message=error.message, retryable=error.retryable),
        decided_at=to_timestamp(at),
    )
