"""Urza as a process: what was acknowledged survives a kill, and the wire says what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.rpc import mapped_errors, open_channel
from esper_core.security import Keyring, MessageSigner, TokenSource
from support.service_process import ServiceProcess

WEIGHTS = bytes(range(256)) * 8192
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    ring = Keyring.generate()
    ring.save(tmp_path / "keyring.json")
    return ring


@pytest.fixture
def urza(tmp_path: Path, keyring: Keyring) -> Iterator[ServiceProcess]:
    service = ServiceProcess("urza", tmp_path, tmp_path / "keyring.json")
    service.start()
    yield service
    assert service.stop() == 0, service.log


async def put(stub: urza_pb2_grpc.LibraryAsyncStub) -> leyline.KernelDescriptor:
    kernel = leyline.KernelDescriptor(
        version=1,
        blueprint_id="mlp_residual.v1",
        contract=leyline.SiteContract(kind=leyline.SITE_KIND_FEATURES, channels=16),
        weights_digest=DIGEST,
        size_bytes=len(WEIGHTS),
    )

    async def parts() -> AsyncIterator[urza_pb2.PutKernelRequest]:
        yield urza_pb2.PutKernelRequest(descriptor=kernel)
        for start in range(0, len(WEIGHTS), 1_000_000):
            yield urza_pb2.PutKernelRequest(chunk=WEIGHTS[start : start + 1_000_000])

    return await stub.PutKernel(parts())


async def test_a_kernel_that_was_acknowledged_survives_a_kill(urza: ServiceProcess, keyring: Keyring) -> None:
    async with urza.channel(keyring) as channel:
        await put(urza_pb2_grpc.LibraryStub(channel))
    urza.kill()
    urza.start()
    async with urza.channel(keyring) as channel:
        stub = urza_pb2_grpc.LibraryStub(channel)
        parts = [part async for part in stub.FetchKernel(urza_pb2.FetchKernelRequest(weights_digest=DIGEST))]
    assert parts[0].descriptor.weights_digest == DIGEST
    assert b"".join(part.chunk for part in parts[1:]) == WEIGHTS


async def test_the_catalogue_is_seeded_and_offers_no_fixture(urza: ServiceProcess, keyring: Keyring) -> None:
    async with urza.channel(keyring) as channel:
        stub = urza_pb2_grpc.LibraryStub(channel)
        everything = await stub.ListBlueprints(urza_pb2.ListBlueprintsRequest())
        eligible = await stub.ListBlueprints(urza_pb2.ListBlueprintsRequest(eligible_only=True))
    fixtures = {row.blueprint_id for row in everything.blueprints if row.quarantine_only}
    assert fixtures
    assert not fixtures & {row.blueprint_id for row in eligible.blueprints}
    assert {"mlp_residual.v1"} <= {row.blueprint_id for row in eligible.blueprints}


async def test_only_a_sheet_signed_by_one_of_us_is_attached(urza: ServiceProcess, keyring: Keyring) -> None:
    sheet = leyline.Bsds(
        version=1,
        bsds_id="01J",
        blueprint_id="mlp_residual.v1",
        hazard_band=leyline.HAZARD_BAND_LOW,
        handling_class=leyline.HANDLING_CLASS_STANDARD,
        resource_profile=leyline.RESOURCE_PROFILE_CPU,
        provenance=leyline.PROVENANCE_URABRASK,
    )
    MessageSigner(Keyring.generate(), "bsds").sign(sheet)
    async with urza.channel(keyring) as channel:
        stub = urza_pb2_grpc.LibraryStub(channel)
        with pytest.raises(UnauthenticatedError), mapped_errors("urza"):
            await stub.AttachBsds(urza_pb2.AttachBsdsRequest(bsds=sheet))
        MessageSigner(keyring, "bsds").sign(sheet)
        assert (await stub.AttachBsds(urza_pb2.AttachBsdsRequest(bsds=sheet))).sequence > 0


async def test_errors_keep_their_class_and_say_what_is_there(urza: ServiceProcess, keyring: Keyring) -> None:
    async with urza.channel(keyring) as channel:
        stub = urza_pb2_grpc.LibraryStub(channel)
        with pytest.raises(NotFoundError, match="mlp_residual"), mapped_errors("urza"):
            await stub.GetBlueprint(urza_pb2.GetBlueprintRequest(blueprint_id="bp-unknown"))


async def test_a_viewer_may_look_but_not_write(urza: ServiceProcess, keyring: Keyring) -> None:
    async with open_channel(urza.address, TokenSource(keyring, "someone", "viewer"), "someone") as channel:
        stub = urza_pb2_grpc.LibraryStub(channel)
        assert (await stub.ListBlueprints(urza_pb2.ListBlueprintsRequest())).blueprints
        with pytest.raises(PermissionDeniedError), mapped_errors("urza"):
            await stub.Quarantine(urza_pb2.QuarantineRequest(blueprint_id="norm.v1", reason="out of spite"))
