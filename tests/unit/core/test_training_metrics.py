"""An absent figure stays absent; a present zero stays a zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_core.training_metrics import METRIC_FIELDS, missing, pack, unpack

pytestmark = pytest.mark.req("LEY-6")

figures = st.dictionaries(
    st.sampled_from(sorted(METRIC_FIELDS)), st.integers(0, 10**6) | st.just(0), max_size=len(METRIC_FIELDS)
)


@given(figures)
def test_what_is_packed_is_unpacked(values: dict[str, int]) -> None:
    message = leyline.TrainingMetrics.FromString(pack(values).SerializeToString())
    assert unpack(message) == values
    assert set(missing(message, tuple(METRIC_FIELDS))) == set(METRIC_FIELDS) - set(values)


def test_zero_is_a_number_and_unknown_is_none() -> None:
    message = pack({"loss": 0.0, "accuracy": None, "grad_var": math.nan, "loss_delta": math.inf})
    assert unpack(message) == {"loss": 0.0, "loss_delta": math.inf}
    assert missing(message, ("accuracy", "loss", "grad_var")) == ("accuracy", "grad_var")


@pytest.mark.parametrize("values", [{"los": 1.0}, {"epochs_total": -1}, {"epochs_total": 1.5}])
def test_mistakes_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))) as caught:
        pack(values)
    assert caught.value.field.startswith("metrics_struct.")


def test_every_figure_is_optional_in_the_contract() -> None:
    assert all(field.has_presence for field in leyline.TrainingMetrics.DESCRIPTOR.fields)
