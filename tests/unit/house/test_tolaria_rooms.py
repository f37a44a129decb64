"""Loop, aggregation, state, safety, telemetry, growth and mediator of Tolaria are rooms of their own."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from typing import Any

import grimp
import pytest
from importlinter import configuration
from importlinter.contracts.forbidden import ForbiddenContract

from support.sources import REPOSITORY

ROOMS = {"training", "aggregation", "state", "safety", "reporting", "growth"}
TOLARIA = REPOSITORY / "services" / "tolaria" / "src" / "tolaria"
CONTRACTS: dict[str, dict[str, Any]] = {
    contract["id"]: contract
    for contract in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["id"].startswith("tolaria-")
}
FORBIDDEN = [
    pytest.param(*row, marks=pytest.mark.req(line), id=f"{row[1]}->{row[2]}")
    for line, row in [
        ("TOL-26", ("tolaria-mediator-outside", "training.links", "mediator.peer")),
        ("TOL-26", ("tolaria-trainer-waits-for-nobody", "training.step", "grpc")),
        ("TOL-26", ("tolaria-trainer-waits-for-nobody", "state.keeper", "asyncio")),
        ("TOL-26", ("tolaria-mediator-apart", "mediator.tamiyo", "training.session")),
        ("TOL-27", ("tolaria-rooms-below-the-loop", "growth.pulse", "training.fence")),
        ("TOL-27", ("tolaria-rooms-below-the-loop", "safety.streak", "training.loop")),
        ("TOL-27", ("tolaria-aggregation-alone", "aggregation.projection", "training.session")),
        ("TOL-27", ("tolaria-safety-alone", "safety.alarm", "reporting.reporter")),
        ("TOL-27", ("tolaria-telling-apart", "reporting.reporter", "safety.alarm")),
    ]
]


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Every import in Tolaria, with what it imports from elsewhere."""
    configuration.configure()
    return grimp.build_graph("tolaria", include_external_packages=True, cache_dir=None)


def holds(contract_id: str, imports: grimp.ImportGraph) -> bool:
    # What is forbidden of another package of ours is an outside module here, which import-linter knows by its root.
    options = {key: value for key, value in CONTRACTS[contract_id].items() if key not in ("id", "name", "type")}
    options["forbidden_modules"] = [name for name in options["forbidden_modules"] if not name.startswith("esper_")]
    session = {"root_packages": ["tolaria"], "include_external_packages": True}
    return ForbiddenContract(contract_id, session, options).check(imports, verbose=False).kept


@pytest.mark.req("TOL-26", "TOL-27")
@pytest.mark.parametrize("contract_id", CONTRACTS)
def test_the_rooms_keep_to_themselves(contract_id: str, imports: grimp.ImportGraph) -> None:
    assert holds(contract_id, deepcopy(imports))


@pytest.mark.parametrize(("contract_id", "importer", "imported"), FORBIDDEN)
def test_an_import_through_a_wall_is_noticed(
    contract_id: str, importer: str, imported: str, imports: grimp.ImportGraph
) -> None:
    changed = deepcopy(imports)
    target = f"tolaria.{imported}" if "." in imported else imported
    if target not in changed.modules:
        changed.add_module(target, is_squashed=True)
    changed.add_import(importer=f"tolaria.{importer}", imported=target, line_number=1, line_contents="import it")
    assert not holds(contract_id, changed)


@pytest.mark.req("TOL-27")
def test_every_room_stands_in_the_contracts() -> None:
    rooms = {path.name for path in TOLARIA.iterdir() if (path / "__init__.py").exists()}
    assert rooms == ROOMS | {"mediator", "service", "worker"}
    assert set(CONTRACTS["tolaria-mediator-outside"]["source_modules"]) == {f"tolaria.{room}" for room in ROOMS}
    below = {*CONTRACTS["tolaria-rooms-below-the-loop"]["source_modules"], "tolaria.training"}
    assert below == {f"tolaria.{room}" for room in ROOMS}
