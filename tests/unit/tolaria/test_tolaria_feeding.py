"""Looking one batch ahead changes neither the batches nor their order, nor where a resumed run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_tasks import Batch, Cursor, EpochSampler, Split
from support.tolaria_runs import letter_spec, small_run
from tolaria.state.capture import capture_session, restore_session
from tolaria.training.feeding import PrefetchedBatches
from tolaria.training.loop import TrainingLoop

CPU = torch.device("cpu")


def sampler(size: int = 4) -> EpochSampler:
    return EpochSampler(Split(torch.arange(22.0).reshape(22, 1), torch.arange(22)), size, seed=5)


def taken(batch: Batch) -> list[int]:
    return [int(target) for target in batch.targets]


@pytest.mark.req("TOL-38")
@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 11), moves=st.lists(st.sampled_from(["next", "back", "anew"]), max_size=30))
def test_batches_and_cursors_are_those_of_the_sampler(size: int, moves: list[str]) -> None:
    plain, ahead, kept = sampler(size), PrefetchedBatches(sampler(size), CPU), Cursor()
    for move in moves:
        if move == "next":
            kept = plain.cursor
            assert taken(ahead.next_batch()) == taken(plain.next_batch())
        elif move == "back":
            plain.seek(kept)
            ahead.seek(kept)
        else:
            ahead = PrefetchedBatches(sampler(size), CPU)
            ahead.seek(plain.cursor)
        assert ahead.cursor == plain.cursor
    assert (ahead.batch_size, ahead.batches_per_epoch) == (plain.batch_size, plain.batches_per_epoch)


@pytest.mark.req("TOL-38")
def test_a_run_that_looks_ahead_is_the_run_and_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    spec = letter_spec(max_steps=8)
    plain, ahead, resumed = (
        small_run(tmp_path / name, spec, prefetch=name != "plain") for name in ("plain", "ahead", "resumed")
    )
    for run in (plain, ahead):
        loop = TrainingLoop(run.parts)
        for _ in range(4):
            loop.turn()
    restore_session(resumed.session, capture_session(ahead.session, 0.0))
    for run in (plain, ahead, resumed):
        assert isinstance(run.session.sampler, PrefetchedBatches) is (run is not plain)
        assert TrainingLoop(run.parts).run().how == "completed"
        run.events.close()
    for other in (ahead, resumed):
        assert other.session.sampler.cursor == plain.session.sampler.cursor
        pairs = zip(plain.session.host.model.parameters(), other.session.host.model.parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
