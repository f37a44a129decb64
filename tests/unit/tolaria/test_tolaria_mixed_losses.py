"""A teacher, projection, scales, parts, half precision and compiling in one run: each does what it does alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.utils.flop_counter import FlopCounterMode

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_tasks.letter import LetterTask
from support.teaching import taught_by
from support.tolaria_grown import SEED, gradients_of, grown_run, same
from support.tolaria_runs import SmallRun, letter_spec
from tolaria.aggregation.pool import GradientPool, Met
from tolaria.service.submission import check_spec
from tolaria.training.compilation import compile_blocks
from tolaria.training.planning import resolve_plan
from tolaria.training.step import training_step
from tolaria.worker.start import begin_teaching

BLENDING = leyline.SEED_STAGE_BLENDING
SIDE_BY_SIDE: dict[str, object] = {"gradient_aggregation": "pcgrad"}
BY_SEED: dict[str, object] = {"gradient_aggregation": "pcgrad", "pcgrad_losses": "seed"}


@contextmanager
def taught(folder: Path, source: Path, **changes: object) -> Iterator[SmallRun]:
    fields: dict[str, object] = {
        "growth": {"policy": "schedule"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "teacher": taught_by(source, weight=2.0),
        **changes,
    }
    run = grown_run(folder, letter_spec(**fields), BLENDING)
    assert begin_teaching(run.session) is not None
    yield run
    run.events.close()


def flat(run: SmallRun) -> Tensor:
    return torch.cat([one.reshape(-1) for one in gradients_of(run, seed=False) if one is not None])


@pytest.mark.req("KAS-18", "TOL-30")
@pytest.mark.parametrize("parts", [1, 2])
def test_a_teachers_loss_is_part_of_both_losses_of_a_contested_seed(parts: int, source: Path, tmp_path: Path) -> None:
    given = {"gradient_accumulation": parts}
    with (
        taught(tmp_path / "held", source, **BY_SEED, **given) as held,
        taught(tmp_path / "free", source, **given) as free,
        taught(tmp_path / "absent", source, **given) as absent,
    ):
        absent.session.host.graft(SEED).route = "bypass"
        results = [training_step(run.session, 1e9) for run in (held, free, absent)]
        assert results[0].distillation_loss == results[1].distillation_loss and results[0].loss == results[1].loss
        assert same(gradients_of(free, seed=True), gradients_of(held, seed=True))
        one, other = flat(free), flat(absent)
        against = min(0.0, float(one @ other))
        kept = one - against / other.square().sum() * other, other - against / one.square().sum() * one
        torch.testing.assert_close(flat(held), (kept[0] + kept[1]) / 2, rtol=1e-4, atol=1e-6)
        assert results[0].met == {"host": Met(int(against < 0), 1), SEED: Met(0, 0)}


@pytest.mark.req("KAS-18")
@pytest.mark.parametrize("parts", [1, 2])
def test_every_pass_of_a_contested_seed_and_a_teacher_is_paid_for(parts: int, source: Path, tmp_path: Path) -> None:
    with taught(tmp_path, source, **BY_SEED, gradient_accumulation=parts) as run:
        session = run.session
        training_step(session, 1e9)
        cost, spent = session.cost.step, session.counters.flops
        with FlopCounterMode(display=False) as counter:
            training_step(session, 1e9)
        host = sum(one.numel() for one in session.optimizer.param_groups[0]["params"])
        # Two rows meet on the host's parameters: their inner products, and where they conflict their weighted sum.
        assert counter.get_total_flops() - cost in (8 * host, 12 * host)
        assert session.counters.flops == spent + cost


@pytest.mark.req("KAS-18", "TOL-30")
@pytest.mark.parametrize("parts", [1, 4])
def test_a_scale_reaches_what_a_seed_learns_from_a_teacher_over_all_parts(
    parts: int, source: Path, tmp_path: Path
) -> None:
    scales = [leyline.GradientScale(scale=0.5)]
    with (
        taught(tmp_path / "plain", source, gradient_accumulation=parts) as plain,
        taught(tmp_path / "scaled", source, gradient_accumulation=parts, gradient_scales=scales) as other,
        taught(tmp_path / "whole", source) as whole,
    ):
        results = [training_step(run.session, 1e9) for run in (plain, other, whole)]
        assert same(gradients_of(plain, seed=True), gradients_of(other, seed=True), 0.5)
        assert same(gradients_of(plain, seed=False), gradients_of(other, seed=False))
        torch.testing.assert_close(flat(plain), flat(whole), rtol=1e-4, atol=1e-6)
        assert results[0].distillation_loss == pytest.approx(results[2].distillation_loss, rel=1e-5)


MEETING: list[dict[str, object]] = [{}, {**SIDE_BY_SIDE, "gradient_accumulation": 2}, BY_SEED]


@pytest.mark.req("KAS-18", "TOL-30")
@pytest.mark.parametrize("meeting", MEETING)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_half_precision_losses_meet_as_in_whole(
    precision: str, meeting: dict[str, object], source: Path, tmp_path: Path
) -> None:
    scales = [leyline.GradientScale(scale=0.5)]
    with (
        taught(tmp_path / "whole", source, **meeting, gradient_scales=scales) as whole,
        taught(tmp_path / "half", source, **meeting, gradient_scales=scales, precision=precision) as half,
        taught(tmp_path / "unscaled", source, **meeting, precision=precision) as unscaled,
    ):
        expected, found, other = [training_step(run.session, 1e9) for run in (whole, half, unscaled)]
        assert found.problem == "" and found.loss == other.loss
        assert found.loss == pytest.approx(expected.loss, rel=1e-2)
        assert found.distillation_loss == pytest.approx(expected.distillation_loss, rel=2e-2)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=3e-2)
        assert flat(half).dtype is torch.float32
        torch.testing.assert_close(flat(half), flat(whole), rtol=0.1, atol=0.1 * float(flat(whole).abs().max()))
        assert same(gradients_of(unscaled, seed=True), gradients_of(half, seed=True), 0.5)
        assert same(gradients_of(unscaled, seed=False), gradients_of(half, seed=False))


@pytest.mark.req("TOL-30")
@pytest.mark.parametrize("mean", [False, True])
def test_projecting_and_taking_off_a_loss_scale_may_change_places_to_the_bit(mean: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 40, generator=generator)
    found = []
    for scale in (1.0, 2.0**16):
        parameter = nn.Parameter(torch.zeros(40))
        pool = GradientPool({"host": [parameter]}, 3, mean=mean)
        for row, gradient in enumerate(rows):
            parameter.grad = gradient * scale
            pool.take(row)
        assert pool.give(random.Random(0))["host"].conflicts > 0
        assert parameter.grad is not None
        found.append(parameter.grad / scale)
    assert torch.equal(*found)


@pytest.mark.req("TOL-30", "TOL-36")
def test_a_compiled_run_leaves_a_contested_seed_out_as_a_plain_one_does(source: Path, tmp_path: Path) -> None:
    given = {**BY_SEED, "max_steps": 12}
    with taught(tmp_path / "plain", source, **given) as plain, taught(tmp_path / "other", source, **given) as other:
        blocks = other.session.compiled = compile_blocks(other.session, "eager", lambda note: None)
        results = [[training_step(run.session, 1e9) for _ in range(2)] for run in (plain, other)]
        assert [one.met for one in results[0]] == [one.met for one in results[1]] and results[0][0].met
        assert [one.loss for one in results[0]] == [one.loss for one in results[1]]
        for of_seed in (True, False):
            assert same(gradients_of(plain, seed=of_seed), gradients_of(other, seed=of_seed))
        assert plain.session.cost == other.session.cost and sum(blocks.graphs.values()) > 0 and not blocks.problems
        blocks.release()
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = False
    functorch_config.donated_buffer = True


@pytest.mark.req("TOL-30")
def test_service_and_worker_agree_about_what_can_be_projected(source: Path) -> None:
    task = LetterTask()
    for parts, teaches, losses, policy in product(
        (1, 2), (False, True), ("", "microbatch", "seed"), ("none", "schedule")
    ):
        spec = letter_spec(
            gradient_accumulation=parts, gradient_aggregation="pcgrad", pcgrad_losses=losses, growth={"policy": policy}
        )
        if teaches:
            spec.teacher.CopyFrom(taught_by(source))
        allowed = policy != "none" if losses == "seed" else parts > 1 or teaches
        for refuse in (check_spec, lambda asked: resolve_plan("run", asked, task)):
            if allowed:
                refuse(spec)
                continue
            with pytest.raises(ValidationError) as refused:
                refuse(spec)
            assert refused.value.field == ("spec.pcgrad_losses" if losses == "seed" else "spec.gradient_aggregation")
            assert "policy" in str(refused.value.allowed) or "teacher" in str(refused.value.allowed)
