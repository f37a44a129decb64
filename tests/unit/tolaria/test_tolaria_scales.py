"""A scale reaches the gradients of its own seed in its own stage and nothing else; without one nothing happens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import ValidationError
from support.tolaria_grown import SEED, gradients_of, grown_run, same
from support.tolaria_runs import SITE, letter_spec, open_letter
from tolaria.service.submission import check_spec
from tolaria.training.plan import GradientScale
from tolaria.training.scales import STAGES, scale_of
from tolaria.training.step import training_step

pytestmark = pytest.mark.req("TOL-30")
BLENDING, FOSSILIZED = leyline.SEED_STAGE_BLENDING, leyline.SEED_STAGE_FOSSILIZED


def scaled(*scales: tuple[str, int, float]) -> leyline.RunSpec:
    given = [leyline.GradientScale(site=site, stage=stage, scale=scale) for site, stage, scale in scales]  # type: ignore[arg-type]
    return letter_spec(gradient_scales=given, optimizer={"name": "sgd", "learning_rate": 0.1})


@pytest.mark.parametrize(("stage", "factor"), [(leyline.SEED_STAGE_TRAINING, 4.0), (BLENDING, 0.5), (FOSSILIZED, 1.0)])
def test_a_seeds_gradients_count_by_the_factor_of_its_stage_and_the_hosts_by_one(
    stage: int, factor: float, tmp_path: Path
) -> None:
    scales = [("", leyline.SEED_STAGE_TRAINING, 4.0), (SITE, 0, 8.0), (SITE, BLENDING, 0.5), (SITE, stage, factor)]
    chosen = {(site, kind): scale for site, kind, scale in scales if kind != FOSSILIZED}
    runs = [grown_run(tmp_path / "plain", scaled(), stage)]
    runs.append(grown_run(tmp_path / "scaled", scaled(*((*key, scale) for key, scale in chosen.items())), stage))
    results = [training_step(run.session, 4.0) for run in runs]
    plain, other = runs
    assert same(gradients_of(plain, seed=True), gradients_of(other, seed=True), factor)
    assert same(gradients_of(plain, seed=False), gradients_of(other, seed=False))
    assert other.session.gradient_scale(SEED) == factor and other.session.gradient_scale("host") == 1.0
    assert results[0].loss == results[1].loss
    for run in runs:
        run.events.close()


def test_a_scale_of_one_is_no_scale(tmp_path: Path) -> None:
    run = grown_run(tmp_path, scaled(("", 0, 1.0)), BLENDING)
    assert run.session.scaled == () and open_letter().scaled == ()
    run.events.close()


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([0, *STAGES])), st.floats(0.1, 9)))
def test_the_most_exact_scale_applies(chosen: dict[tuple[str, int], float]) -> None:
    scales = [GradientScale(site, stage, scale) for (site, stage), scale in chosen.items()]
    for site in ("a", "b", "c"):
        for stage in STAGES:
            applicable = [chosen.get(key) for key in ((site, stage), (site, 0), ("", stage), ("", 0))]
            assert scale_of(scales, site, stage) == next((found for found in applicable if found is not None), 1.0)
        assert scale_of(scales, site, FOSSILIZED) == 1.0


@pytest.mark.parametrize(
    ("scales", "field"),
    [
        ([("", 0, 0.0)], "scale"),
        ([("", 0, -1.0)], "scale"),
        ([("", 0, math.nan)], "scale"),
        ([("", 0, 1e9)], "scale"),
        ([("", FOSSILIZED, 1.0)], "stage"),
        ([("", BLENDING, 0.5), ("", BLENDING, 0.5)], ""),
    ],
)
def test_what_cannot_be_a_scale_is_refused_by_the_service_and_by_the_worker(
    scales: list[tuple[str, int, float]], field: str
) -> None:
    spec = scaled(*scales)
    for refuse in (check_spec, open_letter):
        with pytest.raises(ValidationError) as refused:
            refuse(spec)
        assert refused.value.field == ".".join(["spec.gradient_scales", *([field] if field else [])])


def test_a_site_that_the_task_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValidationError) as refused:
        open_letter(scaled(("nowhere", 0, 2.0)))
    assert refused.value.field == "spec.gradient_scales.site" and SITE in refused.value.allowed
