"""Checkpoints are written beside training, from the one capture that the fast tier keeps as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import DiskFullError
from esper_core.journal import read_journal
from esper_runtime.snapshot import Snapshot
from support.tolaria_runs import SmallRun, letter_spec, open_letter, small_run
from support.waiting import wait_until
from tolaria.state.capture import restore_session
from tolaria.state.checkpoints import CheckpointRecord, CheckpointStore, Reason
from tolaria.training.loop import TrainingLoop


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    made = small_run(tmp_path, letter_spec(checkpoint_interval_steps=5), snapshot_interval_steps=5)
    yield made
    made.events.close()


class SlowStore(CheckpointStore):
    """A store on a disk that takes its time, or is full."""

    def __init__(self, folder: Path, *, full: bool = False) -> None:
        super().__init__(folder, 2)
        self.go_on, self.seen, self._full = threading.Event(), list[Snapshot](), full

    def write(self, snapshot: Snapshot, reason: Reason) -> CheckpointRecord:
        self.seen.append(snapshot)
        assert self.go_on.wait(10.0)
        if self._full:
            raise DiskFullError("The disk is full. Free some space.")
        return super().write(snapshot, reason)


def put_store(run: SmallRun, store: CheckpointStore) -> None:
    run.parts.keeper._writer._store = store


def checkpoints(run: SmallRun) -> list[leyline.CheckpointInfo]:
    events = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    return [event.checkpoint for event in events if event.HasField("checkpoint")]


@pytest.mark.req("TOL-28")
def test_training_goes_on_while_the_one_capture_of_both_tiers_is_written(run: SmallRun) -> None:
    store, loop = SlowStore(run.folder.checkpoints_path), TrainingLoop(run.parts)
    put_store(run, store)
    while run.session.counters.step < 8:
        loop.turn()
    wait_until(lambda: store.seen)
    assert store.seen[0] is run.parts.recovery._ring.newest() and not run.store.records()
    store.go_on.set()
    wait_until(run.store.records)
    run.parts.keeper.close()
    (told,) = checkpoints(run)
    assert (told.step, told.epoch, told.good) == (5, run.session.epoch, True)
    kept = store.seen[0]
    resumed = open_letter(letter_spec(checkpoint_interval_steps=5), run.session.plan.run_id)
    found, _ = run.store.latest_good()
    assert found is not None
    restore_session(resumed, found)
    assert resumed.counters.step == 5
    assert all(torch.equal(found.parameters[name], tensor) for name, tensor in kept.parameters.items())


def test_a_plan_that_is_faster_than_the_disk_is_kept_all_the_same(run: SmallRun) -> None:
    TrainingLoop(run.parts).run()
    run.parts.keeper.close()
    assert [told.step for told in checkpoints(run)] == list(range(5, 61, 5))


def test_a_full_disk_is_told_and_ends_the_run_only_where_somebody_relies_on_the_checkpoint(run: SmallRun) -> None:
    store = SlowStore(run.folder.checkpoints_path, full=True)
    store.go_on.set()
    put_store(run, store)
    TrainingLoop(run.parts).run()
    run.parts.keeper.close()
    assert len(checkpoints(run)) == 12 and not any(told.good for told in checkpoints(run))
    with pytest.raises(DiskFullError):
        run.parts.keeper.checkpoint("final")
