"""Limits hold for the whole service: who breaks one is told on a sheet, and no kernel comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_core import leyline
from support.assessing import asking, running_pair


@pytest.mark.req("URB-1")
async def test_a_kernel_that_needs_too_much_memory_is_described_and_not_stored(tmp_path: Path) -> None:
    with running_pair(tmp_path, {"URABRASK_MEMORY_LIMIT_MIB": "96"}) as pair:
        before = await pair.last_change()
        answer = await pair.assess(asking(channels=4096, expansion=8.0))
        assert not answer.HasField("kernel")
        assert [hazard.name for hazard in answer.bsds.hazards] == ["memory_limit_exceeded"]
        assert answer.bsds.handling_class == leyline.HANDLING_CLASS_RESTRICTED
        assert not answer.bsds.measurements
        assert answer.bsds.not_measured
        assert [update.change for update in await pair.changes(before)] == ["bsds_attached"]
        again = await pair.assess(asking(channels=4096, expansion=8.0))
        assert again.bsds.bsds_id == answer.bsds.bsds_id
        harmless = await pair.assess(asking(channels=8))
        assert harmless.kernel.weights_digest
        assert harmless.bsds.handling_class == leyline.HANDLING_CLASS_STANDARD
