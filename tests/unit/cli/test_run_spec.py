"""What a person types becomes the request that was meant, or a sentence."""

from __future__ import annotations

import pytest

from esper_cli.run_spec import RunOptions, run_spec, task_parameter, whole_number
from esper_core import leyline
from esper_core.errors import ValidationError


def test_a_bare_task_leaves_everything_else_to_its_defaults() -> None:
    spec = run_spec(RunOptions("letter"))
    assert (spec.task, spec.growth.policy, spec.version) == ("letter", "schedule", 1)
    assert not spec.HasField("optimizer")
    assert not spec.flops_budget


def test_a_batch_may_go_through_in_parts() -> None:
    assert run_spec(RunOptions("letter", batch_size=64, gradient_accumulation=4)).gradient_accumulation == 4


def test_a_run_may_be_compiled_and_computed_in_less_precision() -> None:
    spec = run_spec(RunOptions("letter", compile=True, precision="bfloat16"))
    assert spec.compile and spec.precision == "bfloat16"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [("width=24", "integer", 24), ("lr=1e-3", "real", 1e-3), ("size=big", "text", "big"), ("tied=true", "flag", True)],
)
def test_a_parameter_takes_the_type_it_looks_like(text: str, field: str, value: object) -> None:
    parameter = task_parameter(text)
    assert parameter.WhichOneof("value") == field
    assert getattr(parameter, field) == value


@pytest.mark.parametrize("text", ["width", "=3", "width=", ""])
def test_a_parameter_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no parameter"):
        task_parameter(text)


@pytest.mark.parametrize(("text", "value"), [("14e9", 14_000_000_000), ("0", 0), ("250", 250)])
def test_counts_may_be_written_shortly(text: str, value: int) -> None:
    assert whole_number(text, "--flops") == value


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "nan", "inf"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        whole_number(text, "--flops")


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        run_spec(RunOptions("letter", policy="magic"))
    assert "schedule" in caught.value.allowed


def test_the_rate_of_seeds_leaves_the_policy_to_the_task() -> None:
    spec = run_spec(RunOptions("letter", seed_factor=0.25))
    assert (spec.learning_rate.policy, spec.learning_rate.seed_factor) == ("", 0.25)


def test_asking_for_projection_names_the_losses() -> None:
    spec = run_spec(RunOptions("letter", pcgrad="seed"))
    assert (spec.gradient_aggregation, spec.pcgrad_losses) == ("pcgrad", "seed")
    assert not run_spec(RunOptions("letter")).gradient_aggregation


def test_scales_of_gradients_are_read_with_and_without_a_site() -> None:
    first, second = run_spec(RunOptions("letter", gradient_scales=("blending=0.5", "hidden1:all=2"))).gradient_scales
    assert (first.site, first.stage, first.scale) == ("", leyline.SEED_STAGE_BLENDING, 0.5)
    assert (second.site, second.stage, second.scale) == ("hidden1", leyline.SEED_STAGE_UNSPECIFIED, 2.0)


@pytest.mark.parametrize("text", ["blending", "nowhere=1", "all=much", "=2"])
def test_what_scales_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="scales no gradients"):
        run_spec(RunOptions("letter", gradient_scales=(text,)))


def test_the_loss_is_attributed_only_where_somebody_asks() -> None:
    assert run_spec(RunOptions("letter", attribution="probe")).attribution == "probe"
    assert not run_spec(RunOptions("letter")).attribution
