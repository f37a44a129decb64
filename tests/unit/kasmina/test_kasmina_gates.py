"""Each gate, at its bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.blueprints import SiteContract
from kasmina.evidence import Evidence, Improvement, Probe
from kasmina.gates import (
    GateLimits,
    given_up,
    judge_gradient_health,
    judge_interface,
    judge_reset,
    judge_sanity,
    judge_stability,
    judge_system_impact,
    pooled,
)
from kasmina.kernels import KernelKey
from kasmina.lifecycle import DORMANT, TRAINING
from support.kasmina_life import BLUEPRINT, LAYERS, SITE, catalogue_item, kernel_for

LIMITS = GateLimits()
KEY = KernelKey.of(BLUEPRINT, catalogue_item().blueprint.complete({}), SITE.contract)
SOUND = Evidence(
    run_id="r",
    seed_id="s",
    generation=1,
    step=10,
    epoch=0,
    stage=TRAINING,
    alpha=0.0,
    finite=True,
    gradient_norm=0.1,
    loss=1.0,
    loss_at_germination=1.0,
    output_norm=0.5,
    host_output_norm=1.0,
    latency_ms=0.1,
    host_layers_present=LAYERS,
)


def probe(low: float, high: float, step: int = 1) -> Probe:
    centre = (low + high) / 2
    return Probe(1.0, 1.0 + centre, centre, low, high, 512, step)


def test_g0_passes_a_known_allowed_blueprint_with_its_kernel() -> None:
    verdict = judge_sanity(catalogue_item(), [BLUEPRINT], KEY, kernel_for(KEY))
    assert verdict.passed and verdict.reason == "ok"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"item": None}, "unknown_blueprint"),
        ({"allowed": []}, "blueprint_not_allowed"),
        ({"item": catalogue_item(quarantine_reason="it emits NaN")}, "blueprint_not_eligible"),
        ({"item": catalogue_item(handling_quarantine=True)}, "blueprint_not_eligible"),
        ({"kernel": None}, "kernel_missing"),
        ({"kernel": replace(kernel_for(KEY), quarantined=True)}, "kernel_quarantined"),
        ({"kernel": replace(kernel_for(KEY), weights_digest="")}, "kernel_digest_missing"),
        ({"item": catalogue_item(handling_restricted=True)}, "blueprint_not_eligible"),
        ({"kernel": replace(kernel_for(KEY), restricted=True)}, "kernel_restricted"),
        ({"kernel": kernel_for(replace(KEY, contract=SiteContract("features", 8)))}, "kernel_mismatch"),
    ],
)
def test_g0_names_what_is_wrong(changes: dict[str, object], reason: str) -> None:
    given_ = {"item": catalogue_item(), "allowed": [BLUEPRINT], "wanted": KEY, "kernel": kernel_for(KEY), **changes}
    verdict = judge_sanity(**given_)  # type: ignore[arg-type]
    assert verdict.failed and verdict.reason == reason


def test_g0_passes_what_is_restricted_in_a_run_that_allows_it() -> None:
    item, kernel = catalogue_item(handling_restricted=True), replace(kernel_for(KEY), restricted=True)
    assert judge_sanity(item, [BLUEPRINT], KEY, kernel, allow_restricted=True).passed


def test_g0_refuses_a_parameter_that_is_not_finite() -> None:
    wanted = replace(KEY, parameters=(("scale", math.nan),))
    assert judge_sanity(catalogue_item(), [BLUEPRINT], wanted, kernel_for(wanted)).failed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stage": DORMANT}, "not_attached"),
        ({"finite": False}, "non_finite"),
        ({"isolation_violations": 1}, "isolation_violated"),
        ({"isolation_cosine": -0.5}, "isolation_violated"),
        ({"gradient_norm": 0.0}, "gradient_vanished"),
        ({"gradient_norm": 1e4}, "gradient_exploded"),
        ({"gradient_norm": math.nan}, "gradient_vanished"),
    ],
)
def test_g1_names_what_is_wrong(changes: dict[str, object], reason: str) -> None:
    assert judge_gradient_health(SOUND, LIMITS).passed
    verdict = judge_gradient_health(replace(SOUND, **changes), LIMITS)  # type: ignore[arg-type]
    assert verdict.failed and verdict.reason == reason


def test_what_was_not_measured_is_undecided_and_not_zero() -> None:
    assert judge_gradient_health(replace(SOUND, gradient_norm=None), LIMITS).finding == "undecided"
    assert judge_stability(replace(SOUND, loss=None), LIMITS).finding == "undecided"
    assert judge_system_impact([], None, LIMITS).finding == "undecided"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"finite": False}, "non_finite"),
        ({"loss": 2.1}, "loss_exploded"),
        ({"loss": math.inf}, "loss_exploded"),
        ({"seed_loss": 2.1}, "loss_exploded"),
        ({"output_norm": 8.0}, "output_too_strong"),
        ({"latency_ms": 51.0}, "latency_over_budget"),
        ({"alpha_monotone": False}, "alpha_not_monotone"),
    ],
)
def test_g2_names_what_is_wrong(changes: dict[str, object], reason: str) -> None:
    assert judge_stability(SOUND, LIMITS).passed
    verdict = judge_stability(replace(SOUND, **changes), LIMITS)  # type: ignore[arg-type]
    assert verdict.failed and verdict.reason == reason


def test_g2_judges_no_merit() -> None:
    assert judge_stability(replace(SOUND, loss=1.9), LIMITS).passed


@pytest.mark.req("KAS-4")
def test_g3_fails_when_a_required_host_layer_is_missing() -> None:
    assert judge_interface(SOUND, SITE.contract, SITE.contract, [SITE.module_path]).passed
    verdict = judge_interface(SOUND, SITE.contract, SITE.contract, ["body.1", "body.7", "neck"])
    assert verdict.failed and verdict.reason == "mesh_coverage_missing"
    assert verdict.missing_layers == ("body.7", "neck")


@pytest.mark.req("KAS-4")
def test_g3_fails_without_any_mesh() -> None:
    verdict = judge_interface(replace(SOUND, host_layers_present=()), SITE.contract, SITE.contract, ["body.1"])
    assert verdict.reason == "mesh_coverage_missing"


def test_g3_fails_when_kernel_and_site_differ_in_shape() -> None:
    for other in (SiteContract("features", 32), SiteContract("features", 64, inputs=16)):
        verdict = judge_interface(SOUND, other, SITE.contract, ["body.1"])
        assert verdict.failed and verdict.reason == "shape_contract_broken"


@pytest.mark.req("KAS-5")
def test_g4_rejects_a_seed_that_does_harm_and_waits_while_that_cannot_be_told() -> None:
    harm = judge_system_impact([probe(-0.05, -0.01), probe(-0.04, -0.02)], None, LIMITS)
    assert harm.failed and harm.reason == "no_contribution"
    open_yet = judge_system_impact([probe(-0.01, 0.05), probe(-0.02, 0.04)], None, LIMITS)
    assert (open_yet.finding, open_yet.reason) == ("undecided", "no_contribution")
    assert given_up(open_yet, 90).failed


@pytest.mark.req("KAS-5")
def test_g4_does_not_wait_for_a_seed_that_holds_its_host_back() -> None:
    harm = Improvement(expected_loss=0.8, observed_loss=0.95, improvement=-0.15, standard_error=0.02)
    verdict = judge_system_impact([probe(-0.01, 0.05), probe(-0.02, 0.04)], harm, LIMITS)
    assert verdict.failed and verdict.reason == "necessary_without_helping"


def test_g4_needs_two_probes_in_training_and_one_at_the_last_fence() -> None:
    assert judge_system_impact([probe(0.1, 0.2)], None, LIMITS).reason == "evidence_missing"
    assert judge_system_impact([probe(0.1, 0.2)], None, LIMITS, final=True).passed
    assert judge_system_impact([], None, LIMITS, final=True).reason == "evidence_missing"


@pytest.mark.req("KAS-5")
def test_g4_rejects_a_seed_that_made_itself_necessary_without_helping() -> None:
    harm = Improvement(expected_loss=0.8, observed_loss=0.95, improvement=-0.15, standard_error=0.02)
    verdict = judge_system_impact([probe(0.1, 0.2), probe(0.1, 0.2)], harm, LIMITS)
    assert verdict.failed and verdict.reason == "necessary_without_helping"


def test_g4_forgives_a_shortfall_within_the_noise() -> None:
    noise = Improvement(expected_loss=0.8, observed_loss=0.83, improvement=-0.03, standard_error=0.02)
    assert judge_system_impact([probe(0.1, 0.2), probe(0.1, 0.2)], noise, LIMITS).passed


def test_g4_looks_at_the_latest_probes() -> None:
    good, bad = probe(0.1, 0.2), probe(-0.2, -0.1)
    assert judge_system_impact([bad, bad, good, good], None, LIMITS).passed
    assert judge_system_impact([good, good, bad, bad], None, LIMITS).failed


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2), st.floats(0.0, 0.5))
def test_repeating_a_probe_never_makes_it_surer(centres: list[float], half: float) -> None:
    probes = [probe(centre - half, centre + half) for centre in centres]
    centre, low, high = pooled(probes)
    assert low <= centre <= high
    assert high - low == pytest.approx(2 * half)


@pytest.mark.parametrize("limit", ["loss", "output_norm", "latency_ms"])
@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_no_number_whatever_slips_past_g2(limit: str, value: float) -> None:
    verdict = judge_stability(replace(SOUND, **{limit: value}), LIMITS)  # type: ignore[arg-type]
    bounds = {"loss": 2.0, "output_norm": 4.0, "latency_ms": 50.0}
    assert verdict.passed == (math.isfinite(value) and value <= bounds[limit])


def test_g5_wants_nothing_left_behind() -> None:
    assert judge_reset(True).passed
    assert judge_reset(False).reason == "left_behind"
    assert judge_reset(False).gate == leyline.SEED_GATE_G5_RESET
