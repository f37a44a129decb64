"""What the house hears: every gate failure and rejection as CRITICAL, figures under the documented names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.settings import load
from esper_core.telemetry import Instruments
from kasmina.convert.evidence import evidence_from_message, evidence_to_message
from kasmina.gates.limits import GateLimits
from kasmina.rules import Rules
from kasmina.settings import KasminaSettings
from kasmina.telemetry import Telemetry
from support.kasmina_life import RUN, ScriptedRuntime, germinate, seed_command
from support.kasmina_seed import SEED


class Heard:
    """Keeps what telemetry was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, dict[str, object]]] = []
        self.points: list[tuple[str, dict[str, object]]] = []

    def event(self, name: str, level: int, description: str, *, run_id: str = "", **attributes: object) -> None:
        assert description and run_id == RUN
        self.events.append((name, level, attributes))

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        self.points.append((name, attributes))


def told(run: ScriptedRuntime) -> tuple[Heard, CollectorRegistry]:
    """Tell a whole run to a fresh telemetry."""
    heard, registry = Heard(), CollectorRegistry()
    Telemetry(Instruments(registry), heard).facts(run.facts, run.executor.ledger)
    return heard, registry


def lived(contribution: float) -> ScriptedRuntime:
    run = ScriptedRuntime(contribution=contribution)
    run.connect()
    run.command(germinate())
    run.train(150)
    run.command(seed_command(leyline.SEED_OPERATION_FOSSILIZE, SEED, run.generation))
    return run


def test_a_failed_gate_is_one_critical_event_that_says_why() -> None:
    heard, registry = told(lived(-0.05))
    failures = [(level, attributes) for name, level, attributes in heard.events if name == "gate_failure"]
    assert [level for level, _ in failures] == [leyline.TELEMETRY_LEVEL_CRITICAL]
    assert failures[0][1]["reason"] == "no_contribution"
    assert failures[0][1]["seed_id"] == SEED
    labels = {"gate": "G4_SYSTEM_IMPACT", "passed": "false"}
    assert registry.get_sample_value("kasmina_gates_total", labels) == 1


def test_a_rejected_command_is_critical_and_an_accepted_one_is_not() -> None:
    heard, registry = told(lived(-0.05))
    levels = {name: level for name, level, _ in heard.events if name.startswith("command_")}
    assert levels == {
        "command_accepted": leyline.TELEMETRY_LEVEL_INFO,
        "command_rejected": leyline.TELEMETRY_LEVEL_CRITICAL,
    }
    reason = {"reason": "VALIDATION_FAILED"}
    assert registry.get_sample_value("kasmina_command_verifier_rejected_total", reason) == 1


def test_every_move_is_told_and_counted() -> None:
    heard, registry = told(lived(0.05))
    moves = [
        (attributes["from"], attributes["to"]) for name, _, attributes in heard.events if name == "seed_transition"
    ]
    assert moves[0] == ("DORMANT", "GERMINATED") and moves[-1] == ("PROBATIONARY", "FOSSILIZED")
    labels = {"from_stage": "TRAINING", "to_stage": "BLENDING"}
    assert registry.get_sample_value("kasmina_seed_transitions_total", labels) == 1


@pytest.mark.req("KAS-15")
def test_what_a_blend_really_does_is_told() -> None:
    run, registry = lived(0.05), CollectorRegistry()
    evidence = run.executor.ledger.seeds[SEED].evidence
    assert evidence is not None
    figures = {"alpha_mean": 0.4, "alpha_p95": 0.9, "sparsity": 0.25, "gate_mean": 0.5, "isolation_cosine": 0.0}
    Telemetry(Instruments(registry), Heard()).evidence(replace(evidence, **figures), run.executor.ledger)  # type: ignore[arg-type]
    found = {name: registry.get_sample_value(f"kasmina_seed_{name}", {"site": "hidden"}) for name in figures}
    assert found == figures


@pytest.mark.req("KAS-17")
@pytest.mark.parametrize(("compiled", "told", "fallbacks"), [(True, 1.0, 0), (False, 0.0, 1), (None, None, 0)])
def test_whether_a_seed_runs_compiled_is_told(compiled: bool | None, told: float | None, fallbacks: int) -> None:
    run, registry = lived(0.05), CollectorRegistry()
    ledger = run.executor.ledger
    before = ledger.seeds[SEED].evidence
    assert before is not None
    evidence = evidence_from_message(evidence_to_message(replace(before, compiled=compiled)))
    assert evidence.compiled is compiled
    ledger.seeds[SEED] = replace(ledger.seeds[SEED], stage=leyline.SEED_STAGE_BLENDING, evidence=evidence)
    Telemetry(Instruments(registry), Heard()).evidence(evidence, ledger)
    assert registry.get_sample_value("kasmina_seed_compiled", {"site": "hidden"}) == told
    assert registry.get_sample_value("kasmina_seeds_uncompiled") == fallbacks


def test_the_figures_of_a_seed_have_bounded_labels_in_prometheus() -> None:
    run = lived(0.05)
    heard, registry = Heard(), CollectorRegistry()
    telemetry = Telemetry(Instruments(registry), heard)
    evidence = run.executor.ledger.seeds[SEED].evidence
    assert evidence is not None
    telemetry.evidence(evidence, run.executor.ledger)
    assert registry.get_sample_value("kasmina_seed_alpha", {"site": "hidden"}) == 1.0
    assert registry.get_sample_value("kasmina_seed_contribution", {"site": "hidden"}) == pytest.approx(0.05)
    assert registry.get_sample_value("kasmina_isolation_violations") == 0
    assert {name for name, _ in heard.points} >= {"kasmina.seed.alpha", "kasmina.seed.stage"}
    assert all(attributes["seed_id"] == SEED for _, attributes in heard.points)


@pytest.mark.req("KAS-24")
def test_one_settings_object_holds_every_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"LISTEN": "127.0.0.1:0", "METRICS_LISTEN": "127.0.0.1:0", "DATA_DIR": "/tmp", "PROBES_MIN": "4"}
    for name, value in own.items():
        monkeypatch.setenv(f"KASMINA_{name}", value)
    monkeypatch.setenv("ESPER_KEYRING_FILE", "/tmp/keyring.json")
    monkeypatch.setenv("ESPER_URZA_ADDRESS", "127.0.0.1:1")
    rules = load(KasminaSettings).rules()
    assert rules.limits.probes_min == 4
    assert rules == Rules(limits=GateLimits(probes_min=4)), "the defaults of settings and domain are the same"
