"""What a blueprint adds is told without torch, and is what the runtime really builds."""

from __future__ import annotations

import pytest

from esper_core.blueprints import SiteContract, load_catalogue
from esper_runtime.blueprints.registry import parameter_count
from tamiyo.capacity import parameters_added

CONTRACTS = (
    SiteContract("features", 16, inputs=7),
    SiteContract("sequence", 24, length=8, inputs=40),
    SiteContract("channels_1d", 12, length=40),
    SiteContract("image", 8, height=6, width=6),
)
PAIRS = [
    (blueprint, contract)
    for blueprint in load_catalogue()
    if not blueprint.quarantine_only
    for contract in CONTRACTS
    if contract.kind in blueprint.site_kinds
]


@pytest.mark.parametrize(("blueprint", "contract"), PAIRS, ids=lambda one: getattr(one, "blueprint_id", ""))
def test_counts_are_those_of_the_runtime(blueprint, contract) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    values = blueprint.complete({})
    assert parameters_added(blueprint, values, contract) == parameter_count(blueprint.blueprint_id, values, contract)
    if "expansion" in values:
        larger = {**values, "expansion": 1.75}
        assert parameters_added(blueprint, larger, contract) == parameter_count(
            blueprint.blueprint_id, larger, contract
        )


def test_a_fixture_is_never_counted_because_it_is_never_offered() -> None:
    fixture = next(blueprint for blueprint in load_catalogue() if blueprint.quarantine_only)
    assert parameters_added(fixture, fixture.complete({}), CONTRACTS[0]) is None
