"""Urabrask as a process beside a real Urza: kernels and sheets arrive together and once; errors say what is wrong."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from esper_core import leyline
from esper_core.errors import NotFoundError, PermissionDeniedError, ValidationError
from esper_core.pb.esper.urabrask.v1 import urabrask_pb2, urabrask_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2
from esper_core.rpc import mapped_errors, open_channel
from esper_core.security import MessageVerifier, TokenSource
from support.assessing import LONGEST_S, Pair, asking


@pytest.mark.req("URB-1")
async def test_an_assessment_stores_the_kernel_and_attaches_a_signed_sheet(pair: Pair) -> None:
    answer = await pair.assess(asking(channels=24))
    digest = answer.kernel.weights_digest
    async with pair.library() as stub:
        blueprint = await stub.GetBlueprint(urza_pb2.GetBlueprintRequest(blueprint_id="mlp_residual.v1"))
        parts = [part async for part in stub.FetchKernel(urza_pb2.FetchKernelRequest(weights_digest=digest))]
    assert blueprint.bsds == answer.bsds
    assert MessageVerifier(pair.keyring, "bsds", ledger=None, freshness=None).verify(answer.bsds).accepted
    assert answer.bsds.kernel_digest == digest
    assert answer.bsds.handling_class == leyline.HANDLING_CLASS_STANDARD
    assert hashlib.sha256(b"".join(part.chunk for part in parts)).hexdigest() == digest
    assert answer.kernel.parameter_count == 2 * 24 * 24 + 2 * 24


@pytest.mark.req("URB-1")
async def test_a_dangerous_blueprint_gets_its_sheet_and_no_kernel(pair: Pair) -> None:
    before = await pair.last_change()
    answer = await pair.assess(asking("toxic_weights.v1"))
    assert not answer.HasField("kernel")
    assert answer.bsds.handling_class == leyline.HANDLING_CLASS_QUARANTINE
    assert (await pair.assess(asking("toxic_weights.v1"))).bsds.bsds_id == answer.bsds.bsds_id
    assert [update.change for update in await pair.changes(before)] == ["bsds_attached"]


async def test_equal_requests_at_once_are_one_piece_of_work(pair: Pair) -> None:
    before = await pair.last_change()
    answers = await asyncio.gather(*(pair.assess(asking(channels=25)) for _ in range(5)))
    assert len({answer.bsds.bsds_id for answer in answers}) == 1
    assert [update.change for update in await pair.changes(before)] == ["bsds_attached", "kernel_added"]


async def test_sheets_of_one_blueprint_form_a_chain_whoever_asks_at_once(pair: Pair) -> None:
    before = await pair.last_change()
    await asyncio.gather(*(pair.assess(asking("gated_mlp.v1", channels)) for channels in (4, 6, 8)))
    sheets = [update.blueprint.bsds for update in await pair.changes(before) if update.change == "bsds_attached"]
    digests = [hashlib.sha256(sheet.SerializeToString(deterministic=True)).hexdigest() for sheet in sheets]
    assert [sheet.previous_digest for sheet in sheets] == ["", *digests[:-1]]


async def test_a_look_without_storing_leaves_the_library_as_it_was(pair: Pair) -> None:
    before = await pair.last_change()
    answer = await pair.assess(asking("norm.v1", store=False))
    assert not answer.HasField("kernel")
    assert answer.bsds.measurements
    assert await pair.last_change() == before
    async with pair.assessor() as stub:
        with pytest.raises(NotFoundError, match="no safety data sheet"), mapped_errors("urabrask"):
            await stub.GetBsds(urabrask_pb2.GetBsdsRequest(blueprint_id="norm.v1"))


async def test_the_last_sheet_can_be_asked_for(pair: Pair) -> None:
    answer = await pair.assess(asking("low_rank_linear.v1"))
    async with pair.assessor() as stub:
        assert await stub.GetBsds(urabrask_pb2.GetBsdsRequest(blueprint_id="low_rank_linear.v1")) == answer.bsds


async def test_the_speed_of_a_blueprint_is_measured(pair: Pair) -> None:
    contract = leyline.SiteContract(kind=leyline.SITE_KIND_IMAGE, channels=4, height=6, width=6)
    asked = urabrask_pb2.BenchmarkRequest(blueprint_id="conv2d_residual.v1", contract=contract, batch_sizes=[1, 16])
    async with pair.assessor() as stub:
        benchmark = await stub.Benchmark(asked, timeout=LONGEST_S)
        newest = (await stub.ListJobs(urabrask_pb2.ListJobsRequest(limit=1))).jobs[0]
    assert [profile.batch_size for profile in benchmark.profiles] == [1, 16]
    assert all(0 < profile.p50_ms <= profile.p95_ms for profile in benchmark.profiles)
    assert (newest.blueprint_id, newest.state) == ("conv2d_residual.v1", "done")


async def test_errors_name_the_field_and_what_is_allowed(pair: Pair) -> None:
    with pytest.raises(NotFoundError, match="mlp_residual"):
        await pair.assess(asking("bp-unknown"))
    with pytest.raises(ValidationError) as caught:
        await pair.assess(asking(expansion=99.0))
    assert caught.value.field == "parameters.expansion"
    assert caught.value.allowed


async def test_a_viewer_may_look_but_not_set_to_work(pair: Pair) -> None:
    viewer = TokenSource(pair.keyring, "someone", "viewer")
    async with open_channel(pair.urabrask.address, viewer, "someone") as channel:
        stub = urabrask_pb2_grpc.AssessorStub(channel)
        await stub.ListJobs(urabrask_pb2.ListJobsRequest())
        with pytest.raises(PermissionDeniedError), mapped_errors("urabrask"):
            await stub.Assess(asking())
