"""What Tamiyo tells the world: instruments for Prometheus, points and events for the bus."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from esper_core import leyline
from esper_core.breaker import Transition
from esper_core.telemetry.prometheus import Instruments
from tamiyo.actions import ACTION_IDS
from tamiyo.controller import Outcome
from tamiyo.coverage import Coverage
from tamiyo.errors import TamiyoTimeoutError
from tamiyo.evaluation import Evaluation

Level: TypeAlias = leyline.TelemetryLevel.ValueType
INFO, WARNING = leyline.TELEMETRY_LEVEL_INFO, leyline.TELEMETRY_LEVEL_WARNING
ERROR, CRITICAL = leyline.TELEMETRY_LEVEL_ERROR, leyline.TELEMETRY_LEVEL_CRITICAL

_BSDS_REASONS = frozenset(
    {
        leyline.RISK_REASON_BSDS_HANDLING_QUARANTINE,
        leyline.RISK_REASON_BSDS_HAZARD_CRITICAL,
        leyline.RISK_REASON_BSDS_HAZARD_HIGH,
    }
)


class TelemetrySink(Protocol):
    """Where events and points go; the emitter of esper_core is one. Nothing here waits."""

    def event(self, name: str, level: Level, description: str, *, run_id: str = "", **attributes: object) -> None:
        """Take an event."""

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        """Take a value."""


class Telemetry:
    """Turns outcomes into instruments and events."""

    def __init__(self, instruments: Instruments, sink: TelemetrySink) -> None:
        self.instruments = instruments
        self._sink = sink

    def event(self, name: str, level: Level, description: str, run_id: str = "", **attributes: object) -> None:
        """Tell that something happened."""
        self._sink.event(name, level, description, run_id=run_id, **attributes)

    def gauge(self, name: str, value: float, run_id: str = "", **labels: str) -> None:
        """Tell a value on both ways."""
        self.instruments.gauge(name, value, **labels)
        self._sink.gauge(name, value, run_id=run_id, **labels)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count something."""
        self.instruments.count(name, amount, **labels)

    def outcome(self, outcome: Outcome) -> None:
        """Tell what came of a packet."""
        self.count("tamiyo.decisions_total", outcome=outcome.decision.WhichOneof("outcome") or "failure")
        self.instruments.observe("tamiyo.evaluation.latency_ms", outcome.elapsed_ms)
        if outcome.error is not None:
            self._failed(outcome)
        if outcome.evaluation is not None:
            self._evaluated(outcome, outcome.evaluation)
        if outcome.coverage is not None:
            self._covered(outcome.coverage)

    def breaker_moved(self, transition: Transition) -> None:
        """Tell that a breaker moved."""
        self.gauge("tamiyo.breaker.state", float(transition.to_state), breaker=transition.breaker)
        opened = transition.to_state == leyline.CIRCUIT_STATE_OPEN
        sentence = f"Breaker {transition.breaker} is {_name(transition.to_state)}: {transition.reason}"
        self.event("breaker_transition", ERROR if opened else INFO, sentence, breaker=transition.breaker)

    def _failed(self, outcome: Outcome) -> None:
        error, run_id = outcome.error, outcome.decision.training_run_id
        if isinstance(error, TamiyoTimeoutError):
            self.count("tamiyo.timeout.inference_total")
            self.instruments.observe("tamiyo.timeout.inference_ms", outcome.elapsed_ms)
            self.event("timeout_inference", CRITICAL, error.message, run_id, elapsed_ms=f"{outcome.elapsed_ms:.3f}")
        elif error is not None:
            self.event("evaluation_failed", ERROR, error.message, run_id, code=error.code)

    def _evaluated(self, outcome: Outcome, evaluation: Evaluation) -> None:
        run_id, action = outcome.decision.training_run_id, evaluation.proposed
        self.instruments.observe("tamiyo.inference.latency_ms", evaluation.policy_ms)
        self.instruments.gauge("tamiyo.policy.action_id", ACTION_IDS[evaluation.action.kind])
        self.instruments.gauge("tamiyo.policy.risk_score", action.risk.score)
        self.instruments.gauge("tamiyo.selection.candidates", len(action.candidates))
        if action.candidates:
            self.instruments.gauge("tamiyo.selection.score", action.candidates[0].score)
        if outcome.seen is not None:
            if outcome.seen.validation is not None:
                self.gauge("tamiyo.validation_loss", outcome.seen.validation.loss, run_id)
            if outcome.seen.figures.loss_delta is not None:
                self.instruments.gauge("tamiyo.loss_delta", outcome.seen.figures.loss_delta)
        self._moved(evaluation, run_id)
        self._risky(evaluation, run_id)
        if outcome.command is not None:
            self._left(outcome.command, evaluation)

    def _moved(self, evaluation: Evaluation, run_id: str) -> None:
        if evaluation.entered_conservative:
            reason = evaluation.judgement.grave
            self.event("conservative_mode_entered", CRITICAL, f"Conservative mode is on: {reason}", run_id)
        if evaluation.left_conservative:
            self.event("conservative_mode_left", INFO, "The run is healthy again; conservative mode is off.", run_id)

    def _risky(self, evaluation: Evaluation, run_id: str) -> None:
        for finding in evaluation.judgement.findings:
            if finding.reason == leyline.RISK_REASON_TIMEOUT_URZA:
                self.count("tamiyo.timeout.urza_total")
                if evaluation.entered_conservative:
                    self.event("timeout_urza", CRITICAL, finding.explanation, run_id)
            if finding.changed and finding.reason in _BSDS_REASONS:
                name = leyline.RiskReason.Name(leyline.RiskReason.ValueType(finding.reason))
                self.count("tamiyo.bsds.blocked_total", reason=name.removeprefix("RISK_REASON_"))

    def _left(self, command: leyline.AdaptationCommand, evaluation: Evaluation) -> None:
        reason = leyline.RiskReason.Name(command.metadata.risk.reason).removeprefix("RISK_REASON_")
        kind = leyline.CommandType.Name(command.type).removeprefix("COMMAND_TYPE_")
        self.count("tamiyo.commands_total", type=kind, risk_reason=reason)
        if evaluation.action.grows:
            mode = leyline.BlendMode.Name(command.seed_operation.blend.mode).removeprefix("BLEND_MODE_")
            self.count("tamiyo.blending.mode_total", mode=mode)
            self.gauge("tamiyo.blueprint.risk", evaluation.action.risk.score, command.training_run_id)
        self.event(
            "command_issued",
            INFO,
            f"{evaluation.action.kind}: {evaluation.action.rationale}",
            command.training_run_id,
            command_id=command.command_id,
            seed_id=command.target_seed_id,
            site=evaluation.action.site,
            blueprint_id=evaluation.action.blueprint_id,
        )

    def _covered(self, coverage: Coverage) -> None:
        self.instruments.gauge("tamiyo.coverage.feature.avg", coverage.average)
        self.instruments.gauge("tamiyo.coverage.feature.min", coverage.minimum)
        self.instruments.gauge("tamiyo.coverage.feature.max", coverage.maximum)
        for group, share in coverage.groups:
            self.instruments.gauge("tamiyo.coverage.group", share, group=group)


def _name(state: int) -> str:
    return leyline.CircuitState.Name(leyline.CircuitState.ValueType(state)).removeprefix("CIRCUIT_STATE_")
