"""What is attributed to an owner is what its definition says, and finding it out changes nothing that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from esper_core import leyline
from esper_core.errors import ConfigurationError, ValidationError
from support.device_waits import waits
from support.tolaria_grown import grown_run
from support.tolaria_runs import SEED, SmallRun, letter_spec, open_letter, small_run
from tolaria.service.submission import check_spec
from tolaria.training.gradient_reports import GradientReports, GradientRules
from tolaria.training.plan import SEED_FACTOR
from tolaria.training.step import training_step

pytestmark = pytest.mark.req("TOL-30", "TOL-31")
RULES = GradientRules(interval_steps=1, layers=1, spacing_s=0.0)
BLENDING = leyline.SEED_STAGE_BLENDING
RATE = 0.01


def spec(attribution: str, **changes: object) -> leyline.RunSpec:
    plain = {"optimizer": {"name": "sgd", "learning_rate": RATE}, "learning_rate": {"policy": "constant"}}
    fields: dict[str, object] = {**plain, **changes}
    return letter_spec(attribution=attribution, **fields)


def trained(run: SmallRun, steps: int) -> leyline.GradientReport:
    told: list[Any] = []
    reports = GradientReports(run.session, told.append, RULES, run.parts.prober)
    for _ in range(steps):
        reports.stepped(training_step(run.session, 1e9))
    reports.finish()
    return told[0]


def weights(run: SmallRun) -> list[torch.Tensor]:
    return [item.tensor.detach().clone() for item in run.session.host.named_parameters()]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_approx_is_what_the_gradient_promised_of_the_step_that_was_made(scale: float, tmp_path: Path) -> None:
    scales = [leyline.GradientScale(scale=scale)]
    run = grown_run(tmp_path, spec("approx", gradient_scales=scales), BLENDING)
    run.session.learning_rate.forget_thaw(SEED)
    report = trained(run, 3)
    host, seed = report.owners
    # Plain SGD moves by -rate * (scale * g): to first order each step promises -rate * scale * |g|^2. Seeds have a rate
    # of their own.
    assert host.attributed_loss == pytest.approx(-RATE * 3 * host.gradient_norm**2, rel=1e-4)
    assert seed.attributed_loss == pytest.approx(-RATE * 3 * seed.gradient_norm**2 * SEED_FACTOR / scale, rel=1e-4)
    assert report.attribution == "approx" and not report.HasField("loss_movement")
    run.events.close()


def test_for_a_small_step_the_promises_add_up_to_what_the_loss_does(tmp_path: Path) -> None:
    run = grown_run(tmp_path, spec("approx", batch_size=512), BLENDING)
    batch = run.session.sampler.next_batch()
    run.session.sampler.seek(type(run.session.sampler.cursor)())

    def loss() -> float:
        with torch.no_grad():
            return float(run.session.task.loss(run.session.host.model(batch.inputs), batch.targets).double().mean())

    before = loss()
    report = trained(run, 1)
    assert sum(owner.attributed_loss for owner in report.owners) == pytest.approx(loss() - before, rel=0.05)
    run.events.close()


def test_probe_is_the_held_out_loss_minus_that_with_the_owner_put_back(tmp_path: Path) -> None:
    run = grown_run(tmp_path, spec("probe"), BLENDING)
    start = weights(run)
    before = run.parts.prober.point().loss
    report = trained(run, 20)
    host, seed = report.owners
    after = run.parts.prober.point().loss
    assert report.loss_movement == after - before
    items = list(run.session.host.named_parameters())
    for owner, of_seed in ((host, False), (seed, True)):
        kept = weights(run)
        with torch.no_grad():
            for item, former in zip(items, start, strict=True):
                if (item.seed_id is not None) == of_seed:
                    item.tensor.copy_(former)
        assert owner.attributed_loss == after - run.parts.prober.point().loss
        with torch.no_grad():
            for item, value in zip(items, kept, strict=True):
                item.tensor.copy_(value)
    assert host.attributed_loss < 0
    run.events.close()


@pytest.mark.parametrize("attribution", ["approx", "probe"])
def test_attribution_changes_nothing_that_is_trained(attribution: str, tmp_path: Path) -> None:
    runs = [grown_run(tmp_path / str(bool(asked)), spec(asked), BLENDING) for asked in ("", attribution)]
    for run in runs:
        trained(run, 4)
        trained(run, 2)
    assert all(torch.equal(one, two) for one, two in zip(*map(weights, runs), strict=True))
    passes = {"approx": 0, "probe": 8}[attribution]
    spent = runs[1].session.counters.flops - runs[0].session.counters.flops
    assert spent == passes * run.parts.prober._pass_flops
    for run in runs:
        run.events.close()


def test_a_step_that_is_attributed_waits_no_more_than_another(tmp_path: Path) -> None:
    found = []
    for asked in ("", "approx"):
        run = grown_run(tmp_path / f"by {asked}", spec(asked), BLENDING)
        training_step(run.session, 1e9)
        found.append(waits(lambda run=run: training_step(run.session, 1e9)))
        run.events.close()
    assert found[0] == found[1] > 0


def test_a_probe_that_the_budget_has_no_room_for_is_left_out(tmp_path: Path) -> None:
    run = small_run(tmp_path, spec("probe", max_steps=0, flops_budget=5 * open_letter().cost.step))
    report = trained(run, 5)
    assert not report.attribution and not report.owners[0].HasField("attributed_loss")
    assert run.session.counters.flops == run.session.plan.budget.flops
    run.events.close()


def test_a_probe_of_one_owner_accounts_for_everything(tmp_path: Path) -> None:
    run = small_run(tmp_path, spec("probe"))
    report = trained(run, 5)
    assert [owner.attributed_loss for owner in report.owners] == [report.loss_movement]
    run.events.close()


def test_what_a_rollback_undid_is_attributed_to_nobody(tmp_path: Path) -> None:
    run = grown_run(tmp_path, spec("approx"), BLENDING)
    run.session.learning_rate.forget_thaw(SEED)
    told: list[Any] = []
    reports = GradientReports(run.session, told.append, RULES, run.parts.prober)
    reports.stepped(training_step(run.session, 1e9))
    run.session.counters.rollbacks += 1
    for _ in range(2):
        reports.stepped(training_step(run.session, 1e9))
    reports.finish()
    host = told[0].owners[0]
    assert told[0].steps == 2
    assert host.attributed_loss == pytest.approx(-RATE * 2 * host.gradient_norm**2, rel=1e-4)
    run.events.close()


@pytest.mark.parametrize(
    ("asked", "changes", "allowed"),
    [
        ("dataloader", {}, "approx, probe"),
        ("guess", {}, "approx, probe"),
        ("approx", {"gradient_aggregation": "pcgrad", "gradient_accumulation": 2}, "probe"),
    ],
)
def test_what_cannot_be_done_right_is_refused_with_what_can(
    asked: str, changes: dict[str, object], allowed: str
) -> None:
    for refuse in (check_spec, open_letter):
        with pytest.raises(ValidationError) as refused:
            refuse(spec(asked, **changes))
        assert refused.value.field == "spec.attribution" and allowed in str(refused.value.allowed)


def test_attribution_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TOLARIA_GRADIENT_INTERVAL_STEPS"):
        small_run(tmp_path, spec("probe"), gradient_interval_steps=0)
