"""The risk engine: a fixed order, each evaluator for itself, and never a step towards danger."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from support.tamiyo_parts import cards, memory_of, plan, seed, seen, validation
from tamiyo.actions import ACTION_IDS, Action, BlendPlan, Risk, wait
from tamiyo.catalogue import BlueprintCard, Sheet
from tamiyo.conservative import Mode
from tamiyo.observation import Observation
from tamiyo.risk import EVALUATORS, Judgement, RiskThresholds, Situation, judge

GROW = Action("GERMINATE", "", "grow", site="stem", blueprint_id="mlp_residual.v1", blend=BlendPlan(ramp_steps=50))
KEEP = Action("FOSSILIZE", "", "keep", seed_id="s")
CARD = cards()["mlp_residual.v1"]
ON = Mode().entered("a spike", 0.0)

pytestmark = pytest.mark.req("TAM-21")


def situation(observation: Observation | None = None, *before: Observation, **changes: object) -> Situation:
    """Return a healthy situation with some things changed."""
    now = observation or seen(100)
    fields: dict[str, object] = {
        "memory": memory_of(*before, now, of=plan()),
        "seen": now,
        "mode": Mode(),
        "card": CARD,
        "snapshot_age_s": 1.0,
        "policy_ms": 0.1,
        "ramp_steps": 50,
        "thresholds": RiskThresholds(),
    }
    return Situation(**{**fields, **changes})  # type: ignore[arg-type]


def reason(judgement: Judgement) -> str:
    """Return the name of the reason that stands."""
    return leyline.RiskReason.Name(leyline.RiskReason.ValueType(judgement.reason)).removeprefix("RISK_REASON_")


def found(judgement: Judgement) -> list[str]:
    """Return the reasons of all findings."""
    return [
        leyline.RiskReason.Name(leyline.RiskReason.ValueType(one.reason)).removeprefix("RISK_REASON_")
        for one in judgement.findings
    ]


def sheet(band: int = leyline.HAZARD_BAND_LOW, handling: int = leyline.HANDLING_CLASS_STANDARD) -> BlueprintCard:
    """Return a card with a safety data sheet."""
    return replace(CARD, sheet=Sheet(0.1, band, handling))


def test_the_order_is_the_documented_one() -> None:
    assert [evaluator.__name__ for evaluator in EVALUATORS] == [
        "policy_risk",
        "conservative_mode",
        "timeouts",
        "blueprint_risk",
        "bsds",
        "loss_metrics",
        "latency_metrics",
        "isolation_and_device",
        "optimizer_hints",
        "stabilisation",
        "conservative_recovery",
    ]


def test_nothing_found_leaves_the_action_as_it_is() -> None:
    judgement = judge(GROW, situation())
    assert judgement.action is GROW
    assert (reason(judgement), judgement.findings, judgement.healthy) == ("POLICY", (), True)


HELD = [
    ("POLICY_RISK_CRITICAL", {}, replace(GROW, risk=Risk.of(0.98))),
    ("CONSERVATIVE_MODE", {"mode": ON}, GROW),
    ("TIMEOUT_INFERENCE", {"policy_ms": 6.0}, GROW),
    ("TIMEOUT_URZA", {"snapshot_age_s": 121.0}, GROW),
    ("TIMEOUT_URZA", {"snapshot_age_s": None}, GROW),
    ("BP_QUARANTINE", {"card": replace(CARD, refusal="It is quarantined.")}, GROW),
    ("DEGRADED_INPUTS", {"card": None}, GROW),
    ("BLUEPRINT_RISK", {"card": replace(CARD, sheet=Sheet(0.8, 1, 1))}, GROW),
    ("BSDS_HANDLING_QUARANTINE", {"card": sheet(handling=leyline.HANDLING_CLASS_QUARANTINE)}, GROW),
    ("BSDS_HAZARD_CRITICAL", {"card": sheet(leyline.HAZARD_BAND_CRITICAL)}, GROW),
    ("HOOK_BUDGET", {"observation": seen(100, hook_latency_ms=50.0)}, GROW),
    ("DEVICE_PRESSURE_HIGH", {"observation": seen(100, gpu_util_percent=96.0, gpu_mem_free_gb=0.1)}, GROW),
    ("ISOLATION_VIOLATION", {"observation": seen(100, seeds=(seed(gradient_norm=float("nan")),))}, GROW),
]


@pytest.mark.parametrize(("name", "changes", "action"), HELD, ids=[f"{row[0]}-{i}" for i, row in enumerate(HELD)])
def test_grave_findings_hold_growth(name: str, changes: dict[str, object], action: Action) -> None:
    judgement = judge(action, situation(**changes))  # type: ignore[arg-type]
    assert judgement.action.kind == "WAIT"
    assert judgement.action.reason == "risk_hold"
    assert reason(judgement) == name


SOFTENED = [
    ("POLICY_RISK_ELEVATED", {}, replace(GROW, risk=Risk.of(0.9))),
    ("BLUEPRINT_RISK", {"card": replace(CARD, sheet=Sheet(0.6, 1, 1))}, GROW),
    ("BSDS_HAZARD_HIGH", {"card": sheet(leyline.HAZARD_BAND_HIGH)}, GROW),
    ("STEP_LATENCY_HIGH", {"observation": seen(100, step_latency_ms=120.0)}, GROW),
    ("KASMINA_APPLY_SLOW", {"observation": seen(100, kasmina_apply_ms=31.0)}, GROW),
    ("KASMINA_FINALIZE_SLOW", {"observation": seen(100, kasmina_finalize_ms=31.0)}, GROW),
    ("LOSS_VOLATILITY_HIGH", {"observation": seen(100, loss_volatility=0.12)}, GROW),
    ("GRAD_VARIANCE_HIGH", {"observation": seen(100, grad_var=1.0)}, GROW),
    ("GRAD_CONFLICT_HIGH", {"observation": seen(100, grad_conflict_rate=0.5)}, GROW),
    ("CPU_PRESSURE_HIGH", {"observation": seen(100, cpu_util_percent=99.0, device_type="cuda")}, GROW),
]


@pytest.mark.parametrize(("name", "changes", "action"), SOFTENED, ids=[f"{r[0]}-{i}" for i, r in enumerate(SOFTENED)])
def test_lesser_findings_lengthen_the_ramp(name: str, changes: dict[str, object], action: Action) -> None:
    judgement = judge(action, situation(**changes))  # type: ignore[arg-type]
    assert judgement.action.kind == "GERMINATE"
    assert judgement.action.blend.ramp_steps == 75
    assert (reason(judgement), judgement.healthy) == (name, True)


def test_volatility_that_is_usual_in_a_run_is_told_and_changes_nothing() -> None:
    usual = [seen(step, loss_volatility=0.2) for step in range(80, 100)]
    as_ever = judge(GROW, situation(seen(100, loss_volatility=0.22), *usual))
    assert as_ever.action is GROW
    assert found(as_ever) == ["LOSS_VOLATILITY_HIGH"]
    restless = judge(GROW, situation(seen(100, loss_volatility=0.31), *usual))
    assert restless.action.blend.ramp_steps == 75


def test_the_ramp_is_at_most_doubled() -> None:
    restless = seen(100, loss_volatility=0.2, grad_var=2.0, grad_conflict_rate=0.9)
    assert judge(GROW, situation(restless)).action.blend.ramp_steps == 100


def test_a_jump_of_the_smoothed_loss_holds_and_a_creep_softens() -> None:
    jump = judge(GROW, situation(seen(100, loss_ewma=1.16), seen(90)))
    creep = judge(GROW, situation(seen(100, loss_ewma=1.08), seen(90)))
    assert (reason(jump), jump.action.kind, bool(jump.grave)) == ("LOSS_SPIKE", "WAIT", True)
    assert (reason(creep), creep.action.kind, creep.grave) == ("LOSS_WARNING", "GERMINATE", "")


def test_a_single_batch_is_never_looked_at() -> None:
    judgement = judge(GROW, situation(seen(100, loss=9.0, loss_ewma=1.0), seen(90, loss=1.0)))
    assert judgement.findings == ()


def test_fresh_validation_passes_are_compared_with_each_other() -> None:
    before = seen(90, validation=validation(90, 1.0))
    judgement = judge(GROW, situation(seen(100, validation=validation(100, 1.2), loss_ewma=0.5), before))
    assert reason(judgement) == "LOSS_SPIKE"
    assert judgement.findings[0].observed == pytest.approx(0.2)


def test_the_time_of_an_old_graft_is_not_held_against_the_next_one() -> None:
    judgement = judge(GROW, situation(seen(100, kasmina_apply_ms=80.0), seen(90, kasmina_apply_ms=80.0)))
    assert judgement.findings == ()


def test_a_busy_processor_is_told_and_changes_nothing_where_it_trains_itself() -> None:
    judgement = judge(GROW, situation(seen(100, cpu_util_percent=100.0, device_type="cpu")))
    assert judgement.action is GROW
    assert (found(judgement), reason(judgement)) == (["CPU_PRESSURE_HIGH"], "POLICY")


def test_a_bold_learning_rate_is_taken_back() -> None:
    bold = Action("OPTIMIZER", "", "faster", learning_rate_factor=1.8)
    judgement = judge(bold, situation(card=None))
    assert (judgement.action.learning_rate_factor, reason(judgement)) == (1.0, "OPTIMIZER_HINT")


def test_the_way_out_of_the_mode_is_told() -> None:
    half = replace(ON, state=leyline.CIRCUIT_STATE_HALF_OPEN, healthy=3)
    judgement = judge(wait("x", "y"), situation(mode=half))
    assert judgement.findings[-1].evaluator == "conservative_recovery"
    assert judgement.findings[-1].observed == 3.0
    assert judgement.healthy


def test_the_first_reason_stands_and_every_finding_is_kept() -> None:
    bad = seen(100, hook_latency_ms=60.0, loss_volatility=0.5)
    judgement = judge(GROW, situation(bad, mode=ON))
    assert reason(judgement) == "CONSERVATIVE_MODE"
    assert found(judgement) == ["CONSERVATIVE_MODE", "HOOK_BUDGET", "LOSS_VOLATILITY_HIGH"]
    assert [one.changed for one in judgement.findings] == [True, False, False]


def test_a_timeout_and_an_operator_override_earlier_reasons() -> None:
    risky = replace(GROW, risk=Risk.of(0.99))
    assert reason(judge(risky, situation(policy_ms=9.0))) == "TIMEOUT_INFERENCE"
    ordered = Mode().entered("maintenance", 0.0, by_operator=True)
    assert reason(judge(risky, situation(mode=ordered))) == "OPERATOR_OVERRIDE"


def test_settling_is_never_held() -> None:
    everything = seen(100, hook_latency_ms=90.0, loss_ewma=2.0)
    for action in (KEEP, replace(KEEP, kind="CULL")):
        judgement = judge(action, situation(everything, seen(90), mode=ON, snapshot_age_s=None, card=None))
        assert judgement.action is action


SAFETY = {"GERMINATE": 3, "OPTIMIZER": 2, "ADVANCE": 2, "FOSSILIZE": 1, "CULL": 1, "WAIT": 0}
numbers = st.one_of(st.none(), st.floats(0, 200))


@given(
    kind=st.sampled_from(sorted(SAFETY)),
    risk=st.floats(0, 1),
    figures=st.fixed_dictionaries(
        dict.fromkeys(("loss_ewma", "loss_volatility", "grad_var", "hook_latency_ms", "step_latency_ms"), numbers)
    ),
    mode=st.sampled_from([Mode(), ON]),
    age_s=st.one_of(st.none(), st.floats(0, 500)),
    factor=st.floats(0.1, 2.0),
)
def test_no_situation_makes_an_action_more_dangerous(kind, risk, figures, mode, age_s, factor) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    assert set(SAFETY) < set(ACTION_IDS)
    action = replace(GROW, kind=kind, risk=Risk.of(risk), learning_rate_factor=factor)
    after = judge(action, situation(seen(100, **figures), seen(90), mode=mode, snapshot_age_s=age_s)).action
    assert SAFETY[after.kind] <= SAFETY[kind]
    assert after.kind in (kind, "WAIT")
    if after.kind == "GERMINATE":
        assert 50 <= after.blend.ramp_steps <= 100
        assert after.blend.target_alpha == action.blend.target_alpha
    if after.kind == "OPTIMIZER":
        assert after.learning_rate_factor <= max(1.0, factor) and after.learning_rate_factor <= 1.5
