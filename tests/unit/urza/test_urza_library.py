"""Urza keeps what it is given, notices what has changed on disk, and tells every change."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.blueprints import load_catalogue
from esper_core.blueprints.messages import descriptor
from esper_core.clocks import SYSTEM_CLOCK
from esper_core.errors import (
    AlreadyExistsError,
    IntegrityError,
    NotFoundError,
    QuarantinedError,
    ValidationError,
)
from urza.artefacts import ArtefactStore
from urza.catalogue import Catalogue, sheet_digest
from urza.eligibility import is_eligible, refusal
from urza.keys import key_of
from urza.library import Library
from urza.seeding import seed

WEIGHTS = b"the weights of a small kernel" * 100_000


def blueprint(blueprint_id: str = "mlp_residual.v1", **changes: object) -> leyline.BlueprintDescriptor:
    descriptor = leyline.BlueprintDescriptor(
        version=1,
        blueprint_id=blueprint_id,
        tier=leyline.BLUEPRINT_TIER_SAFE,
        operator=leyline.BLUEPRINT_OPERATOR_MLP_RESIDUAL,
        site_kinds=[leyline.SITE_KIND_FEATURES],
    )
    for name, value in changes.items():
        setattr(descriptor, name, value)
    return descriptor


def kernel(weights: bytes = WEIGHTS, hidden: int = 32) -> leyline.KernelDescriptor:
    return leyline.KernelDescriptor(
        version=1,
        blueprint_id="mlp_residual.v1",
        parameters=[leyline.BlueprintParameter(name="hidden", integer=hidden)],
        contract=leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=16),
        weights_digest=hashlib.sha256(weights).hexdigest(),
        size_bytes=len(weights),
    )


def in_chunks(data: bytes) -> list[bytes]:
    return [data[start : start + 4096] for start in range(0, len(data), 4096)]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return open_library(tmp_path)


def open_library(folder: Path) -> Library:
    store = ArtefactStore(folder / "artefacts", max_bytes=10_000_000)
    return Library(Catalogue.in_folder(folder, SYSTEM_CLOCK), store, SYSTEM_CLOCK)


@pytest.mark.req("URZ-1")
async def test_a_kernel_survives_a_restart(tmp_path: Path) -> None:
    first = open_library(tmp_path)
    await first.register(blueprint())
    await first.put_kernel(kernel(), in_chunks(WEIGHTS))

    second = open_library(tmp_path)
    found, chunks = await second.fetch(kernel().weights_digest, 0)
    assert found == kernel()
    assert b"".join(chunks) == WEIGHTS


async def test_a_fetch_can_go_on_where_it_stopped(library: Library) -> None:
    await library.register(blueprint())
    await library.put_kernel(kernel(), in_chunks(WEIGHTS))
    _, chunks = await library.fetch(kernel().weights_digest, 1_000_000)
    assert b"".join(chunks) == WEIGHTS[1_000_000:]


async def test_a_kernel_is_found_by_what_it_is_whatever_the_order_of_parameters(library: Library) -> None:
    await library.register(blueprint())
    stored = kernel()
    stored.parameters.add(name="activation", text="gelu")
    await library.put_kernel(stored, [WEIGHTS])
    key = key_of(stored)
    key.parameters.reverse()
    assert (await library.kernel(key)).weights_digest == stored.weights_digest


async def test_wrong_bytes_are_refused_and_leave_nothing(library: Library, tmp_path: Path) -> None:
    await library.register(blueprint())
    with pytest.raises(IntegrityError, match="announced"):
        await library.put_kernel(kernel(), [b"something else"])
    assert not [path for path in (tmp_path / "artefacts").rglob("*") if path.is_file()]
    with pytest.raises(NotFoundError):
        await library.kernel(kernel().weights_digest)


async def test_bytes_that_change_on_disk_quarantine_the_kernel(library: Library, tmp_path: Path) -> None:
    await library.register(blueprint())
    await library.put_kernel(kernel(), [WEIGHTS])
    artefact = next(path for path in (tmp_path / "artefacts").rglob("*") if path.is_file())
    artefact.write_bytes(b"X" + WEIGHTS[1:])
    with pytest.raises(IntegrityError, match="changed on disk"):
        await library.fetch(kernel().weights_digest, 0)
    with pytest.raises(QuarantinedError):
        await library.fetch(kernel().weights_digest, 0)
    assert artefact.exists()


async def test_another_kernel_of_the_same_key_is_refused(library: Library) -> None:
    await library.register(blueprint())
    await library.put_kernel(kernel(), [WEIGHTS])
    with pytest.raises(AlreadyExistsError):
        await library.put_kernel(kernel(b"other weights"), [b"other weights"])


async def test_a_kernel_of_an_unknown_blueprint_is_refused(library: Library) -> None:
    with pytest.raises(NotFoundError, match="mlp_residual"):
        await library.put_kernel(kernel(), [WEIGHTS])


async def test_an_artefact_too_large_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path, max_bytes=10)
    with pytest.raises(ValidationError, match="too large"):
        store.put([b"12345678", b"9012"], hashlib.sha256(b"123456789012").hexdigest())


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "ABC", "g" * 64])
def test_a_name_that_is_no_digest_never_reaches_the_disk(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValidationError, match="no digest"):
        ArtefactStore(tmp_path, max_bytes=10).put([b""], digest)


async def test_registering_again_changes_nothing_and_a_change_makes_a_revision(library: Library) -> None:
    first = await library.register(blueprint())
    again = await library.register(blueprint())
    changed = await library.register(blueprint(description="wider"))
    assert (first.revision, again.revision, changed.revision) == (1, 1, 2)


async def test_a_revision_neither_lifts_a_quarantine_nor_loses_the_sheet(library: Library) -> None:
    await library.register(blueprint())
    sheet = leyline.Bsds(version=1, bsds_id="one", blueprint_id="mlp_residual.v1")
    await library.attach(sheet)
    await library.quarantine("blueprint_id", "mlp_residual.v1", "it misbehaved", lift=False)
    changed = await library.register(blueprint(description="wider"))
    assert (changed.quarantined, changed.quarantine_reason, changed.bsds) == (True, "it misbehaved", sheet)


async def test_blueprints_of_an_older_version_are_replaced_once_and_told(library: Library) -> None:
    ships = {blueprint.blueprint_id: descriptor(blueprint) for blueprint in load_catalogue()}
    reworded, reworked, same = "gated_mlp.v1", "attention.v1", "norm.v1"
    assert {reworded, reworked, same} <= ships.keys() and ships[reworked].approval_required
    ships[reworded].description = "what it was called before"
    del ships[reworked].parameters[:]
    for name in (reworded, reworked, same):
        ships[name].approved = True
        await library.register(ships[name])
    _, before = await library.list_blueprints()

    assert sorted(await seed(library)) == sorted([reworded, reworked])
    assert await seed(library) == []
    found = {row.blueprint_id: row for row in (await library.list_blueprints())[0]}
    shipped = {blueprint.blueprint_id: descriptor(blueprint) for blueprint in load_catalogue()}
    assert found.keys() == shipped.keys()
    assert found[reworded].description == shipped[reworded].description and found[reworded].approved
    assert found[reworked].parameters == shipped[reworked].parameters and not found[reworked].approved
    assert (found[reworded].revision, found[reworked].revision, found[same].revision) == (2, 2, 1)
    told = [update async for update in _changes(library, before, len(shipped) - 1)]
    assert {update.blueprint_id for update in told if update.revision == 2} == {reworded, reworked}


async def test_an_approval_outlives_a_restart(library: Library) -> None:
    await seed(library)
    approved = await library.blueprint("attention.v1")
    approved.approved = True
    await library.register(approved)
    assert await seed(library) == [] and (await library.blueprint("attention.v1")).approved


async def _changes(library: Library, after: int, count: int) -> AsyncIterator[leyline.CatalogUpdate]:
    async with aclosing(library.watch(after)) as updates:
        async for update in updates:
            yield update
            count -= 1
            if not count:
                return


@pytest.mark.req("URZ-2")
async def test_a_watcher_gets_a_snapshot_and_then_every_change_in_order(library: Library) -> None:
    await library.register(blueprint())
    watcher = library.watch(0)
    snapshot = await anext(watcher)
    assert snapshot.change == "snapshot"

    waiting = asyncio.ensure_future(anext(watcher))
    await library.put_kernel(kernel(), [WEIGHTS])
    await library.quarantine("blueprint_id", "mlp_residual.v1", "it misbehaved", lift=False)
    added = await asyncio.wait_for(waiting, 5)
    quarantined = await asyncio.wait_for(anext(watcher), 5)
    assert [added.change, quarantined.change] == ["kernel_added", "quarantined"]
    assert added.sequence < quarantined.sequence


async def test_a_late_watcher_misses_nothing(library: Library) -> None:
    await library.register(blueprint())
    _, sequence = await library.list_blueprints()
    await library.put_kernel(kernel(), [WEIGHTS])
    late = library.watch(sequence)
    assert (await asyncio.wait_for(anext(late), 5)).change == "kernel_added"


async def test_a_quarantined_blueprint_takes_its_kernels_along_until_it_is_lifted(library: Library) -> None:
    await library.register(blueprint())
    await library.put_kernel(kernel(), [WEIGHTS])
    await library.quarantine("blueprint_id", "mlp_residual.v1", "it misbehaved", lift=False)
    with pytest.raises(QuarantinedError, match="misbehaved"):
        await library.kernel(kernel().weights_digest)
    await library.quarantine("blueprint_id", "mlp_residual.v1", "looked at it again", lift=True)
    assert await library.kernel(kernel().weights_digest) == kernel()


async def test_sheets_form_a_chain(library: Library) -> None:
    await library.register(blueprint())
    first = leyline.Bsds(version=1, bsds_id="one", blueprint_id="mlp_residual.v1")
    await library.attach(first)
    with pytest.raises(IntegrityError, match="continues nothing"):
        await library.attach(leyline.Bsds(version=1, bsds_id="two", blueprint_id="mlp_residual.v1"))
    second = leyline.Bsds(version=1, bsds_id="two", blueprint_id="mlp_residual.v1", previous_digest=sheet_digest(first))
    await library.attach(second)
    assert (await library.blueprint("mlp_residual.v1")).bsds == second


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"quarantined": True, "quarantine_reason": "bad"}, "bad"),
        ({"quarantine_only": True}, "fixture"),
        ({"tier": leyline.BLUEPRINT_TIER_HIGH_RISK}, "fixture"),
        ({"approval_required": True}, "approval"),
    ],
)
def test_who_is_not_eligible_is_told_why(changes: dict[str, object], word: str) -> None:
    assert word in refusal(blueprint(**changes))


def test_a_safe_blueprint_is_eligible() -> None:
    assert is_eligible(blueprint())
