"""What a report says about gradients is what they were, and to find it out no step waits for the device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from esper_core import leyline
from esper_core.telemetry.catalog import CATALOG
from support.device_waits import waits
from support.metered import metered
from support.tolaria_grown import SEED, gradients_of, grown_run, perform
from support.tolaria_runs import SITE, SmallRun, detach, letter_spec, small_run
from tolaria.aggregation.meters import GradientMeters
from tolaria.training.gradient_reports import GradientReports, GradientRules
from tolaria.training.loop import TrainingLoop
from tolaria.training.step import StepResult, training_step

pytestmark = pytest.mark.req("TOL-31")
EVERY_STEP = GradientRules(interval_steps=1, layers=3, spacing_s=0.0)
BLENDING = leyline.SEED_STAGE_BLENDING


def reports_of(
    run: SmallRun, rules: GradientRules = EVERY_STEP
) -> tuple[GradientReports, list[leyline.GradientReport]]:
    told: list[Any] = []
    return GradientReports(run.session, told.append, rules, run.parts.prober), told


def step(run: SmallRun, reports: GradientReports) -> StepResult:
    result = training_step(run.session, 1e9)
    reports.stepped(result)
    return result


def norm(gradients: Any) -> float:
    return math.sqrt(
        sum(float(gradient.detach().double().square().sum()) for gradient in gradients if gradient is not None)
    )


def mean_square(norms: list[float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms) / len(norms))


def test_a_report_has_the_norms_and_shares_that_the_gradients_had(tmp_path: Path) -> None:
    spec = letter_spec(gradient_scales=[leyline.GradientScale(scale=0.5)])
    run = grown_run(tmp_path, spec, BLENDING)
    reports, told = reports_of(run)
    seen: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(5):
        step(run, reports)
        for of_seed, norms in seen.items():
            norms.append(norm(gradients_of(run, seed=of_seed)))
    reports.finish()
    (report,) = told
    host, seed = report.owners
    assert (report.after_step, report.last_step, report.steps) == (0, 5, 5)
    assert (host.owner, seed.owner, seed.site) == ("host", SEED, SITE)
    assert host.gradient_norm == pytest.approx(mean_square(seen[False]), rel=1e-5)
    assert seed.gradient_norm == pytest.approx(mean_square(seen[True]), rel=1e-5)
    assert host.share + seed.share == pytest.approx(1.0)
    assert seed.share == pytest.approx(seed.gradient_norm**2 / (seed.gradient_norm**2 + host.gradient_norm**2))
    assert (host.scale, seed.scale, seed.alpha) == (1.0, 0.5, 1.0) and not host.HasField("alpha")
    assert seed.weight_norm == pytest.approx(norm(list(run.session.host.graft(SEED).seed.parameters())), rel=1e-5)
    assert not host.HasField("conflict_rate")
    run.events.close()


def test_layers_come_with_the_largest_gradients_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec())
    reports, told = reports_of(run)
    step(run, reports)
    layers: dict[str, list[Any]] = {}
    for item in run.session.host.named_parameters():
        layers.setdefault(item.name.rpartition(".")[0], []).append(item.tensor.grad)
    expected = sorted(((norm(gradients), name) for name, gradients in layers.items()), reverse=True)[:3]
    reports.finish()
    assert [layer.name for layer in told[0].layers] == [name for _, name in expected]
    assert [layer.gradient_norm for layer in told[0].layers] == pytest.approx([found for found, _ in expected])
    run.events.close()


def test_conflicts_are_told_by_owner(tmp_path: Path) -> None:
    spec = letter_spec(gradient_aggregation="pcgrad", pcgrad_losses="seed", growth={"policy": "schedule"})
    run = grown_run(tmp_path, spec, BLENDING)
    reports, told = reports_of(run)
    results = [step(run, reports) for _ in range(4)]
    reports.finish()
    host, seed = told[0].owners
    assert host.conflict_rate == sum(result.met["host"].conflicts for result in results) / 4
    assert not seed.HasField("conflict_rate")
    run.events.close()


def test_no_step_waits_for_the_device_and_a_report_waits_once(tmp_path: Path) -> None:
    run = grown_run(tmp_path, letter_spec(), BLENDING)
    reports, told = reports_of(run)
    step(run, reports)
    unwatched = waits(lambda: training_step(run.session, 1e9))
    assert waits(lambda: step(run, reports)) == unwatched > 0
    assert waits(GradientMeters(run.session.host).observe) == 0
    assert waits(reports.finish) == 1 and len(told) == 1
    run.events.close()


def test_an_epoch_has_one_report_and_epochs_that_are_too_short_share_one(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec(max_steps=1000), gradient_interval_steps=10, gradient_spacing_s=0.0)
    events: list[leyline.RunEvent] = []
    run.events.listen(events.append)
    loop, epoch = TrainingLoop(run.parts), run.session.sampler.batches_per_epoch
    hurried, hasty = reports_of(run, GradientRules(10, 1, 3600.0))
    while run.session.counters.step < 2 * epoch:
        loop.turn()
        if run.parts.reporter._last is not None:
            hurried.stepped(run.parts.reporter._last)
    found = [event.gradients for event in events if event.kind == leyline.RUN_EVENT_KIND_GRADIENTS]
    assert [(report.after_step, report.last_step) for report in found] == [(0, epoch), (epoch, 2 * epoch)]
    assert [report.steps for report in found] == [epoch // 10, 2 * epoch // 10 - epoch // 10]
    assert [report.last_step for report in hasty] == [epoch]
    run.events.close()


def test_a_seed_that_left_is_in_the_report_of_its_epoch_and_in_no_later_one(tmp_path: Path) -> None:
    run = grown_run(tmp_path, letter_spec(), BLENDING)
    reports, told = reports_of(run)
    step(run, reports)
    perform(run, detach(run.session, SEED))
    step(run, reports)
    reports.finish()
    step(run, reports)
    reports.finish()
    left = told[0].owners[1]
    assert left.owner == SEED and left.gradient_norm > 0 and not left.HasField("weight_norm")
    assert not left.HasField("alpha") and [owner.owner for owner in told[1].owners] == ["host"]
    run.events.close()


def test_what_a_rollback_undid_is_forgotten(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec())
    reports, told = reports_of(run)
    step(run, reports)
    run.session.counters.rollbacks += 1
    step(run, reports)
    reports.finish()
    assert told[0].steps == 1
    run.events.close()


def test_where_nobody_asks_nothing_is_looked_at(tmp_path: Path) -> None:
    run = small_run(tmp_path, letter_spec())
    reports, told = reports_of(run, GradientRules(0, 3, 0.0))
    step(run, reports)
    reports.finish()
    assert not told and not reports._meters.steps
    run.events.close()


async def test_every_figure_has_a_metric_of_the_catalogue_labelled_by_site(tmp_path: Path) -> None:
    spec = letter_spec(gradient_aggregation="pcgrad", gradient_accumulation=2)
    run = grown_run(tmp_path, spec, BLENDING)
    reports, told = reports_of(run)
    step(run, reports)
    reports.finish()
    event = leyline.RunEvent(kind=leyline.RUN_EVENT_KIND_GRADIENTS, gradients=told[0], training_run_id="run")
    points = [(point.name, dict(point.attributes)) for point in (await metered([event])).points]
    assert {name for name, _ in points} == {name for name in CATALOG if name.startswith("tolaria.gradient.")}
    owners = {attributes["owner"] for name, attributes in points if name == "tolaria.gradient.owner_norm"}
    assert owners == {"host", SITE}
    run.events.close()
