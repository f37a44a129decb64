"""The controller: strict ids, typed failures, the step budget, complete and signed commands."""

from __future__ import annotations

import pytest

from esper_core import leyline
from esper_core.clocks import from_timestamp
from esper_core.ids import parse_command_id
from esper_core.security import MessageVerifier
from support.tamiyo_parts import Bench, StepClock
from support.tamiyo_run import FakeRun
from tamiyo.risk import EVALUATORS


def failure(decision: leyline.Decision) -> leyline.EvaluationFailure:
    """Return the failure, which must be the outcome."""
    assert decision.WhichOneof("outcome") == "failure"
    return decision.failure


@pytest.mark.req("TAM-10")
@pytest.mark.parametrize("field", ["training_run_id", "packet_id"])
def test_a_missing_id_is_a_typed_failure_and_never_made_up(field: str) -> None:
    bench = Bench()
    packet = FakeRun().packet(80, context=True)
    packet.ClearField(field)  # type: ignore[arg-type]
    told = failure(bench.controller.decide(packet).decision)
    assert told.code == "ESP-1005"
    assert field in told.message
    assert [violation.dependency for violation in bench.sink.violations] == [field]


@pytest.mark.req("TAM-10")
def test_a_seed_without_id_or_of_another_run_is_refused() -> None:
    bench, run = Bench(), FakeRun()
    nameless = leyline.SeedState(stage=leyline.SEED_STAGE_TRAINING)
    stranger = leyline.SeedState(stage=leyline.SEED_STAGE_TRAINING, seed_id=f"{FakeRun().run_id}/stem/1", site="stem")
    assert failure(bench.controller.decide(run.packet(1, context=True, seeds=[nameless])).decision).code == "ESP-1005"
    assert failure(bench.controller.decide(run.packet(1, context=True, seeds=[stranger])).decision).code == "ESP-1003"


@pytest.mark.req("TAM-11")
def test_an_unknown_run_is_asked_for_its_context() -> None:
    told = failure(Bench().controller.decide(FakeRun().packet(80)).decision)
    assert (told.code, told.retryable) == ("ESP-1005", True)
    assert "context" in told.message


def test_the_context_stays_known() -> None:
    bench, run = Bench(), FakeRun()
    bench.controller.decide(run.packet(1, context=True))
    assert bench.controller.decide(run.packet(80)).decision.WhichOneof("outcome") == "command"


def test_a_wrong_version_and_an_unspecified_enum_are_refused() -> None:
    bench, run = Bench(), FakeRun()
    packet = run.packet(1, context=True, version=2)
    assert failure(bench.controller.decide(packet).decision).code == "ESP-1004"
    stateless = run.packet(1, context=True, run_state=leyline.RUN_STATE_UNSPECIFIED)
    assert failure(bench.controller.decide(stateless).decision).code == "ESP-1004"


def test_an_unknown_policy_is_told_with_what_there_is() -> None:
    told = failure(Bench().controller.decide(FakeRun(policy="learned").packet(80, context=True)).decision)
    assert (told.code, "schedule, heuristic" in told.message) == ("ESP-1006", True)


def test_a_run_without_growth_only_waits() -> None:
    decision = Bench().controller.decide(FakeRun(policy="none").packet(80, context=True)).decision
    assert decision.no_action.reason == "growth_disabled"


def test_a_command_is_complete_and_signed() -> None:
    bench, run = Bench(), FakeRun()
    packet = run.packet(80, context=True, generation=3)
    outcome = bench.controller.decide(packet)
    command = outcome.decision.command
    assert command.command_id == parse_command_id(outcome.decision.decision_id)
    assert (command.training_run_id, command.based_on_generation, command.decided_at_step) == (run.run_id, 3, 80)
    assert (command.type, command.issued_by) == (leyline.COMMAND_TYPE_SEED, "tamiyo")
    assert command.seed_operation.blend.end_steps == 50
    assert (from_timestamp(command.execution_deadline) - bench.clock.wall()).total_seconds() == 30.0
    metadata = command.metadata
    assert (metadata.policy.policy_name, metadata.policy.policy_version) == ("schedule", "schedule-1.0.0")
    assert metadata.policy.action_id == 1
    assert len(metadata.policy.graph_digest) == 64
    assert metadata.policy.rationale
    assert metadata.risk.reason == leyline.RISK_REASON_POLICY
    assert metadata.selection.candidates[0].site == command.target_site
    assert metadata.coverage.missing
    verifier = MessageVerifier(bench.keyring, "command", ledger=None, clock=bench.clock)
    assert verifier.verify(command).accepted
    command.metadata.policy.rationale = "another"
    assert not verifier.verify(command).accepted
    leyline.validate(outcome.decision)


def test_layers_are_not_journalled() -> None:
    packet = FakeRun().packet(1, context=True)
    packet.layers.add(name="stem", kind="Linear")
    outcome = Bench().controller.decide(packet)
    assert (len(packet.layers), len(outcome.inputs.layers)) == (1, 0)


@pytest.mark.req("TAM-16")
def test_an_evaluation_over_budget_is_a_failure_an_event_and_counts_for_the_breaker() -> None:
    bench, run = Bench(clock=StepClock(cost_s=0.002)), FakeRun()
    for number in range(3):
        outcome = bench.controller.decide(run.packet(80 + number, context=True))
        bench.telemetry.outcome(outcome)
        told = failure(outcome.decision)
        assert (told.code, told.retryable) == ("ESP-1020", True)
        assert "budget of 5 ms" in told.message
    assert ("timeout_inference", leyline.TELEMETRY_LEVEL_CRITICAL) in [event[:2] for event in bench.sink.events]
    assert bench.value("tamiyo_timeout_inference_total") == 3.0
    assert bench.breaker.state == leyline.CIRCUIT_STATE_OPEN
    bench.clock.cost_s = 0.0
    assert failure(bench.controller.decide(run.packet(90)).decision).code == "ESP-1019"
    memory = bench.runs.get(run.run_id)
    assert memory is not None
    assert memory.mode.on
    assert not memory.sent


@pytest.mark.req("TAM-16")
def test_one_slow_evaluation_does_not_turn_a_run_conservative() -> None:
    bench, run = Bench(clock=StepClock(cost_s=0.002)), FakeRun()
    bench.controller.decide(run.packet(80, context=True))
    bench.clock.cost_s = 0.0
    assert bench.controller.decide(run.packet(81)).decision.WhichOneof("outcome") == "command"


@pytest.mark.req("TAM-16", "TAM-22")
def test_evaluating_recovers_by_itself() -> None:
    bench, run = Bench(clock=StepClock(cost_s=0.002)), FakeRun()
    for number in range(3):
        bench.controller.decide(run.packet(80 + number, context=True))
    bench.clock.cost_s = 0.0
    bench.clock.advance(5.0)
    held = bench.controller.decide(run.packet(90)).decision.no_action
    assert (held.reason, held.metadata.risk.reason) == ("risk_hold", leyline.RISK_REASON_CONSERVATIVE_MODE)
    bench.clock.advance(30.0)
    bench.catalogue.contact()
    decisions = [bench.controller.decide(run.packet(100 + number)).decision for number in range(12)]
    assert decisions[-1].WhichOneof("outcome") == "command"


def test_a_library_that_is_away_holds_growth_and_nothing_else() -> None:
    bench, run = Bench(), FakeRun()
    bench.clock.advance(121.0)
    outcome = bench.controller.decide(run.packet(80, context=True))
    assert outcome.decision.no_action.reason == "risk_hold"
    assert outcome.decision.no_action.metadata.risk.reason == leyline.RISK_REASON_TIMEOUT_URZA
    bench.telemetry.outcome(outcome)
    assert "timeout_urza" in bench.sink.names()


def test_every_evaluator_has_a_name_that_findings_carry() -> None:
    assert len({evaluator.__name__ for evaluator in EVALUATORS}) == 11


def test_prometheus_shows_the_documented_names() -> None:
    bench, run = Bench(), FakeRun()
    for packet in (run.packet(1, context=True), run.packet(80)):
        bench.telemetry.outcome(bench.controller.decide(packet))
    assert bench.value("tamiyo_decisions_total", {"outcome": "command"}) == 1.0
    assert bench.value("tamiyo_commands_total", {"type": "SEED", "risk_reason": "POLICY"}) == 1.0
    assert bench.value("tamiyo_blending_mode_total", {"mode": "RESIDUAL"}) == 1.0
    assert bench.value("tamiyo_evaluation_latency_ms_count") == 2.0
    assert bench.value("tamiyo_coverage_group", {"group": "loss"}) == 0.5
