"""A specification is refused with everything that is wrong about it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import UnimplementedError, ValidationError
from support.tolaria_service import spec
from tolaria.service.completion import Defaults, with_defaults
from tolaria.service.submission import check_spec

DEFAULTS = Defaults(batch_size=128, optimizer="adam", learning_rate=0.01, max_epochs=0, flops_budget=1000)


def test_all_problems_are_told_at_once() -> None:
    bad = spec(
        threads=999,
        device="tpu",
        optimizer=leyline.OptimizerSpec(name="adma", learning_rate=float("nan"), momentum=2),
        growth=leyline.GrowthSpec(policy="schedul", blueprint_ids=["norm.v1", "nothing.v1"]),
    )
    with pytest.raises(ValidationError) as caught:
        check_spec(bad)
    told = caught.value.details["problems"]
    for field in (
        "spec.threads", "spec.device", "spec.optimizer.name", "spec.optimizer.learning_rate",
        "spec.optimizer.momentum", "spec.growth.policy", "spec.growth.blueprint_ids",
    ):  # fmt: skip
        assert field in told
        assert field in caught.value.message
    assert caught.value.field == "spec.threads"
    assert "Did you mean 'schedule'" in caught.value.message


@given(
    floor=st.floats(allow_nan=True),
    warmup=st.floats(allow_nan=True),
    decay=st.floats(allow_nan=True),
    momentum=st.floats(allow_nan=True),
)
def test_numbers_are_taken_inside_their_bounds_only(floor: float, warmup: float, decay: float, momentum: float) -> None:
    wanted = spec(
        learning_rate=leyline.LearningRateSpec(policy="cosine", warmup_fraction=warmup, floor=floor),
        optimizer=leyline.OptimizerSpec(name="sgd", learning_rate=0.1, weight_decay=decay, momentum=momentum),
    )
    fine = 0 <= floor <= 1 and 0 <= warmup <= 0.5 and 0 <= decay < float("inf") and 0 <= momentum < 1
    if fine:
        check_spec(wanted)
    else:
        with pytest.raises(ValidationError):
            check_spec(wanted)


def test_a_topology_needs_a_place_to_come_from() -> None:
    with pytest.raises(ValidationError, match="does not say from where"):
        check_spec(spec(topology_only=True))


def test_several_workers_come_later() -> None:
    check_spec(spec(workers=1))
    with pytest.raises(UnimplementedError, match="one worker"):
        check_spec(spec(workers=2))


def test_quarantined_fixtures_are_never_offered() -> None:
    with pytest.raises(ValidationError) as caught:
        check_spec(spec(growth=leyline.GrowthSpec(policy="schedule", blueprint_ids=["toxic_gain.v1"])))
    assert "mlp_residual.v1" in caught.value.allowed


def test_defaults_fill_only_what_was_left_open() -> None:
    bare = with_defaults(leyline.RunSpec(version=1, task="letter"), DEFAULTS)
    assert (bare.flops_budget, bare.max_epochs, bare.max_steps, bare.batch_size) == (1000, 0, 0, 128)
    assert (bare.optimizer.name, bare.optimizer.learning_rate) == ("adam", 0.01)
    half = with_defaults(spec(7, batch_size=16, optimizer=leyline.OptimizerSpec(name="sgd", momentum=0.5)), DEFAULTS)
    assert (half.flops_budget, half.max_steps, half.batch_size) == (0, 7, 16)
    assert (half.optimizer.name, half.optimizer.learning_rate, half.optimizer.momentum) == ("sgd", 0.01, 0.5)


def test_the_service_never_loads_torch() -> None:
    code = (
        "import sys, tolaria.__main__, tolaria.service.wiring, tolaria.service.chores; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
