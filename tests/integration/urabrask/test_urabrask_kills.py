"""Urabrask is killed: what it acknowledged stays, what it had begun is begun again, nothing is left half."""

from __future__ import annotations

import asyncio
import shutil

import grpc
import pytest

from esper_core.pb.esper.urabrask.v1 import urabrask_pb2
from support.assessing import LONGEST_S, Pair, asking
from support.waiting import await_until


@pytest.mark.chaos
@pytest.mark.req("URB-1")
async def test_asking_again_does_no_work_again_not_even_after_a_kill(fresh_pair: Pair) -> None:
    first = await fresh_pair.assess(asking(channels=8))
    last = await fresh_pair.assess(asking(channels=24))
    before = await fresh_pair.last_change()
    again = await fresh_pair.assess(asking(channels=8))
    fresh_pair.urabrask.kill()
    fresh_pair.urabrask.start(until="NOT_SERVING")
    later = await fresh_pair.assess(asking(channels=8))
    assert first == again == later
    assert await fresh_pair.last_change() == before

    fresh_pair.urabrask.kill()
    shutil.rmtree(fresh_pair.urabrask.folder / "urabrask")
    fresh_pair.urabrask.start(until="NOT_SERVING")
    anew = await fresh_pair.assess(asking(channels=8))
    assert anew.kernel == first.kernel
    assert anew.bsds.bsds_id not in (first.bsds.bsds_id, last.bsds.bsds_id)
    assert anew.bsds.kernel_digest == first.kernel.weights_digest


@pytest.mark.chaos
@pytest.mark.req("URB-1")
async def test_a_kill_in_the_middle_leaves_no_kernel_without_a_sheet(fresh_pair: Pair) -> None:
    wanted = [asking(channels=channels) for channels in range(2, 42)]
    start = await fresh_pair.last_change()

    async def some_are_done() -> bool:
        return await fresh_pair.last_change() > start + 6

    async with fresh_pair.assessor() as stub:
        calls = [stub.Assess(asked, timeout=LONGEST_S) for asked in wanted]
        await await_until(some_are_done, LONGEST_S, what="some kernels being made")
        fresh_pair.urabrask.kill()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(outcome, grpc.RpcError) for outcome in outcomes)

    fresh_pair.urabrask.start(until="NOT_SERVING")
    answers = [await fresh_pair.assess(asked) for asked in wanted]
    acknowledged = {outcome.bsds.bsds_id for outcome in outcomes if isinstance(outcome, urabrask_pb2.AssessResponse)}
    assert acknowledged <= {answer.bsds.bsds_id for answer in answers}
    assert len({answer.kernel.weights_digest for answer in answers}) == len(wanted)
    described: set[str] = set()
    for update in await fresh_pair.changes(start):
        if update.change == "bsds_attached":
            described.add(update.blueprint.bsds.kernel_digest)
        else:
            assert update.kernel.weights_digest in described
