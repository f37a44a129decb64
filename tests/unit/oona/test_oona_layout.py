"""Names of keys and delivery ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.bus import STREAMS, group_key, stream_of, streams_for
from esper_core.errors import ContractError, ValidationError
from esper_core.pb.esper.oona.v1 import oona_pb2
from oona.layout import Layout, Place
from oona.settings import OonaSettings
from oona.subscription import checked
from support.oona import oona_settings


@given(st.sampled_from(STREAMS), st.integers(0, 2**48), st.integers(0, 9), st.booleans())
def test_a_delivery_id_can_be_read_back(logical: str, milliseconds: int, number: int, again: bool) -> None:
    place = Place(logical, f"{milliseconds}-{number}", again)
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize("text", ["", "x", "m:normal:", "m:nowhere:1-1", "q:normal:1-1", "m:normal:a-b"])
def test_what_is_no_delivery_id_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no delivery id"):
        Place.parse(text)


@pytest.mark.req("OON-2")
def test_every_stream_has_a_name_that_can_be_set(tmp_path: Path) -> None:
    settings: OonaSettings = oona_settings("redis://x", tmp_path, stream_emergency="alarm", stream_kernels_ready="k")
    layout = Layout.from_settings(settings)
    assert set(layout.names) == set(STREAMS)
    assert (layout.stream("emergency"), layout.stream("kernels.ready"), layout.stream("normal")) == (
        "alarm",
        "k",
        "oona.normal",
    )


@pytest.mark.req("OON-2")
def test_high_and_critical_ride_the_emergency_stream_whatever_they_are() -> None:
    types = [value for value in leyline.BusMessageType.values() if value]
    for message_type in types:
        for priority in (leyline.MESSAGE_PRIORITY_HIGH, leyline.MESSAGE_PRIORITY_CRITICAL):
            assert stream_of(message_type, priority) == "emergency"
    assert {stream_of(one, leyline.MESSAGE_PRIORITY_LOW) for one in types} == set(STREAMS)


def test_a_subscription_always_reads_the_emergency_stream_first() -> None:
    assert streams_for([leyline.BUS_MESSAGE_TYPE_KERNEL_READY]) == ("emergency", "kernels.ready")
    assert streams_for([], ["policy"]) == ("emergency", "policy")
    assert streams_for([]) == STREAMS
    assert streams_for([leyline.BUS_MESSAGE_TYPE_EMERGENCY_SIGNAL]) == ("emergency",)


def test_two_subscriptions_of_a_group_with_other_types_do_not_share_a_place() -> None:
    assert group_key("kasmina", [8, 7]) == group_key("kasmina", [7, 8, 8]) == "kasmina@7.8"
    assert group_key("kasmina", []) == "kasmina"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"group": ""}, ValidationError),
        ({"group": "a@b"}, ValidationError),
        ({"consumer": "x" * 129}, ValidationError),
        ({"max_in_flight": 0}, ValidationError),
        ({"max_in_flight": 1025}, ValidationError),
        ({"message_types": [0]}, ContractError),
        ({"streams": ["nowhere"]}, ValidationError),
    ],
)
def test_an_opening_that_cannot_be_served_is_refused_by_field(change: dict[str, object], error: type) -> None:
    fields = {"group": "g", "consumer": "c", "max_in_flight": 1, **change}
    with pytest.raises(error) as refused:
        checked(oona_pb2.SubscribeOpen(**fields))  # type: ignore[arg-type]
    assert refused.value.field in (*change, "message_type")
