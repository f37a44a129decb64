"""Real blueprints on trial in a real child process: the dangerous are caught, the safe pass, limits hold."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import pickletools
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from esper_core import leyline
from esper_core.blueprints import KernelSpec, SiteContract, load_catalogue
from esper_core.errors import ResourceExhaustedError, TimeoutExceededError, WorkerCrashedError
from support.waiting import await_until
from urabrask.assessment.observations import Observations
from urabrask.assessment.verdict import judge_trial
from urabrask.convert import init_seed
from urabrask.laboratory import Laboratory, Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPES = (
    SiteContract("features", 64, inputs=16),
    SiteContract("sequence", 32, length=64, inputs=80),
    SiteContract("channels_1d", 16, length=40),
    SiteContract("image", 8, height=8, width=8),
)
ROOMY = Limits(timeout_s=60.0, memory_mib=1024)
SMALL = KernelSpec("mlp_residual.v1", SiteContract("features", 64))
HUGE = KernelSpec("mlp_residual.v1", SiteContract("features", 4096), {"expansion": 8.0})
COSTLY = {"memory_growth.v1", "slow_forward.v1"}
"""Fixtures that cost the trial what they would cost a run, whatever the site: once is enough."""
SLOW = KernelSpec("slow_forward.v1", SiteContract("features", 8), {"microseconds_per_example": 50_000})
CATALOGUE = [
    pytest.param(KernelSpec(blueprint.blueprint_id, shape), id=f"{blueprint.blueprint_id}-{shape.kind}")
    for blueprint in load_catalogue()
    for shape in SHAPES
    if shape.kind in blueprint.site_kinds and (shape is SHAPES[0] or blueprint.blueprint_id not in COSTLY)
]
DANGEROUS = {blueprint.blueprint_id for blueprint in load_catalogue() if blueprint.tier == "HIGH_RISK"}
WORST = {
    "nan_injection.v1": "non_finite_output",
    "exploding_gradient.v1": "exploding_gradient",
    "vanishing_gradient.v1": "vanishing_gradient",
    "toxic_weights.v1": "oversized_output",
    "memory_growth.v1": "leaks_memory",
    "oscillation.v1": "unsteady",
    "slow_forward.v1": "stalls",
    "shape_drift.v1": "wrong_shape",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laboratory() -> AsyncIterator[Laboratory]:
    opened = Laboratory(ROOMY)
    await opened.warm_up()
    yield opened
    await opened.close()


async def tried(laboratory: Laboratory, spec: KernelSpec) -> Observations:
    weights = await laboratory.make(spec, init_seed(spec))
    return await laboratory.observe(spec, weights.data)


@pytest.mark.req("URB-1")
@pytest.mark.parametrize("spec", CATALOGUE)
async def test_the_dangerous_are_caught_and_the_others_pass(laboratory: Laboratory, spec: KernelSpec) -> None:
    verdict = judge_trial(await tried(laboratory, spec))
    if spec.blueprint_id in DANGEROUS:
        assert verdict.handling_class == leyline.HANDLING_CLASS_QUARANTINE
        assert verdict.hazards[0].name == WORST[spec.blueprint_id]
    else:
        assert verdict.handling_class == leyline.HANDLING_CLASS_STANDARD, verdict.hazards


async def test_two_trials_of_one_kernel_see_the_same(laboratory: Laboratory) -> None:
    first, second = await tried(laboratory, SMALL), await tried(laboratory, SMALL)
    assert (first.forward, first.gradients, first.learning) == (second.forward, second.gradients, second.learning)
    assert first.precisions == second.precisions


async def test_an_assessment_of_a_small_shape_takes_less_than_a_second(laboratory: Laboratory) -> None:
    # The machine may be busy with other tests, so the best of some tries counts.
    spans = []
    for _ in range(5):
        begun = time.monotonic()
        await tried(laboratory, SMALL)
        spans.append(time.monotonic() - begun)
    assert min(spans) < 1.0


async def test_the_same_kernel_comes_out_of_every_child(laboratory: Laboratory) -> None:
    other = Laboratory(ROOMY)
    try:
        theirs = await other.make(SMALL, init_seed(SMALL))
    finally:
        await other.close()
    mine = await laboratory.make(SMALL, init_seed(SMALL))
    assert mine.digest == theirs.digest
    assert mine.parameter_count == 2 * 64 * 64 + 2 * 64
    assert mine.flops_per_example == 4 * 64 * 64


async def test_a_shape_with_an_open_extent_is_tried_and_its_flops_stay_unknown(laboratory: Laboratory) -> None:
    spec = KernelSpec("mlp_residual.v1", SiteContract("sequence", 16))
    weights = await laboratory.make(spec, init_seed(spec))
    assert weights.flops_per_example is None
    assert (await laboratory.observe(spec, weights.data)).shape_kept


async def test_what_is_too_large_for_a_batch_is_told_and_not_invented(laboratory: Laboratory) -> None:
    spec = KernelSpec("norm.v1", SiteContract("image", 64, height=64, width=32))
    seen = await tried(laboratory, spec)
    assert [profile.batch_size for profile in seen.profiles] == [1]
    assert any(words.startswith("batch=128:") for words in seen.not_measured)
    assert any(words.startswith("accelerator:") for words in seen.not_measured)


@pytest.mark.req("URB-1")
async def test_a_trial_that_takes_too_long_is_killed_and_the_next_one_works() -> None:
    laboratory = Laboratory(Limits(timeout_s=0.25, memory_mib=2048))
    try:
        weights = await laboratory.make(SLOW, 1)
        with pytest.raises(TimeoutExceededError):
            await laboratory.observe(SLOW, weights.data)
        assert (await laboratory.make(SMALL, 1)).parameter_count > 0
        assert laboratory.children_replaced == 1
    finally:
        await laboratory.close()


@pytest.mark.req("URB-1")
async def test_a_trial_that_needs_too_much_memory_is_stopped_and_the_next_one_works() -> None:
    laboratory = Laboratory(Limits(timeout_s=60.0, memory_mib=96))
    try:
        with pytest.raises(ResourceExhaustedError, match="96 MiB"):
            await laboratory.make(HUGE, 1)
        assert (await tried(laboratory, SMALL)).shape_kept
        assert laboratory.children_replaced == 0
    finally:
        await laboratory.close()


async def test_the_assessor_itself_never_loads_torch() -> None:
    program = "import sys, urabrask.service; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_what_comes_back_from_a_child_needs_no_torch_to_be_read(laboratory: Laboratory) -> None:
    seen = pickletools.genops(pickle.dumps(await tried(laboratory, SMALL)))
    assert not [argument for _, argument, _ in seen if isinstance(argument, str) and argument.startswith("torch")]


def kill_children() -> set[int]:
    """Kill the children on trial and return their process ids."""
    children = [child for child in multiprocessing.active_children() if child.name == "urabrask-trial-child"]
    for child in children:
        child.kill()
    return {child.pid or 0 for child in children}


def alive() -> set[int]:
    return {child.pid or 0 for child in multiprocessing.active_children() if child.name == "urabrask-trial-child"}


async def test_a_trial_whose_process_dies_gets_one_more_chance() -> None:
    laboratory = Laboratory(ROOMY)
    try:
        weights = await laboratory.make(SLOW, 1)
        for deaths, survives in ((1, True), (2, False)):
            trial = asyncio.create_task(laboratory.benchmark(SLOW, weights.data, [2]))
            killed: set[int] = set()
            for _ in range(deaths):
                await await_until(
                    lambda known=killed: laboratory.busy and bool(alive() - known), 60.0, what="a trial in a new child"
                )
                killed |= kill_children()
                # Else a child that is only being made ready for the next attempt could pass for one on trial.
                await await_until(lambda: not laboratory.busy, 60.0, what="the death to be noticed")
            if survives:
                assert (await trial)[0].batch_size == 2
            else:
                with pytest.raises(WorkerCrashedError):
                    await trial
    finally:
        await laboratory.close()
