"""Runs on disk: what was acknowledged is there, and one writer at a time has the status."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.clocks import ManualClock
from esper_core.errors import AlreadyExistsError, IntegrityError, NotFoundError, StateFolderInUseError
from esper_core.files import FileLock
from esper_core.stack import ProcessIdentity
from support.tolaria_service import spec
from tolaria.reporting.events import EventLog
from tolaria.rundir import WorkerMark
from tolaria.service.launches import LaunchRecord
from tolaria.service.runs import RunStore
from tolaria.service.workers import find_living


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> RunStore:
    return RunStore(tmp_path, clock)


def test_a_request_is_remembered_over_restarts(store: RunStore, tmp_path: Path) -> None:
    run_id = store.create("request", spec(5), spec(5, batch_size=64))
    again = RunStore(tmp_path)
    assert again.reserved("request", spec(5)) == run_id
    assert again.reserved("another", spec(5)) is None
    assert again.status(run_id).spec.batch_size == 64
    with pytest.raises(AlreadyExistsError, match=run_id):
        again.reserved("request", spec(6))


def test_a_note_without_its_run_is_answered_anew(store: RunStore) -> None:
    run_id = store.create("request", spec(5), spec(5))
    (store.directory(run_id).path / "spec.json").unlink()
    assert store.reserved("request", spec(5)) is None
    assert store.ids() == []
    second = store.create("request", spec(5), spec(5))
    assert store.reserved("request", spec(5)) == second


def test_runs_are_told_newest_first(store: RunStore, clock: ManualClock) -> None:
    made = []
    for number in range(3):
        made.append(store.create(f"request {number}", spec(), spec()))
        clock.advance(1)
    assert store.ids() == made[::-1]
    with pytest.raises(NotFoundError, match=made[-1]):
        store.directory("0" * 26)


def test_a_run_without_a_worker_is_pending_until_it_is_told_otherwise(store: RunStore, clock: ManualClock) -> None:
    run_id = store.create("request", spec(), spec())
    assert store.status(run_id).state == leyline.RUN_STATE_PENDING
    clock.advance(60)
    halted = store.retell(run_id, leyline.RUN_STATE_HALTED, "Not wanted any more.")
    assert halted.ended_at.ToDatetime() - halted.submitted_at.ToDatetime() == timedelta(seconds=60)
    assert store.status(run_id) == halted
    revived = store.retell(run_id, leyline.RUN_STATE_PENDING, "Wanted after all.")
    assert not revived.HasField("ended_at")
    log = EventLog(store.directory(run_id).events_path, run_id)
    assert log.sequence == 2
    log.close()


def test_a_status_is_left_to_the_worker_that_has_the_run(store: RunStore) -> None:
    run_id = store.create("request", spec(), spec())
    with FileLock(store.directory(run_id).lock_path), pytest.raises(StateFolderInUseError):
        store.retell(run_id, leyline.RUN_STATE_FAILED, "It is dead.")
    assert store.status(run_id).state == leyline.RUN_STATE_PENDING


def test_deaths_count_only_while_nothing_is_gained() -> None:
    record = LaunchRecord()
    stalled = []
    for step in (100, 100, 90, 140, 140):
        record = record.died(step)
        stalled.append(record.stalled)
    assert stalled == [0, 1, 2, 0, 1]
    assert record.resumed().stalled == 0


def test_a_launch_survives_and_damage_is_told(tmp_path: Path) -> None:
    record = LaunchRecord(best_step=7).started(ProcessIdentity.own())
    record.save(tmp_path)
    assert LaunchRecord.load(tmp_path) == record
    (tmp_path / "launch.json").write_text('{"pid": "many"}')
    with pytest.raises(IntegrityError, match="record of a start"):
        LaunchRecord.load(tmp_path)


def test_a_recycled_process_id_is_nobodys_worker(store: RunStore) -> None:
    directory = store.directory(store.create("request", spec(), spec()))
    own = ProcessIdentity.own()
    assert find_living(directory, LaunchRecord()) is None
    assert find_living(directory, LaunchRecord(own.pid, own.started_ticks + 1)) is None
    assert find_living(directory, LaunchRecord(own.pid, own.started_ticks)) is not None
    directory.write_mark(WorkerMark(own.pid, 12.0, 1))
    assert find_living(directory, LaunchRecord()) is None
