"""Both tiers of a rollback: in time, measured, and safe from readings that come too late."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_runtime.snapshot import Snapshot
from support.metered import metered
from support.tolaria_runs import SmallRun
from support.waiting import wait_until
from tolaria.reporting.reporter import rollback_message
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import BadCheckpoint, CheckpointStore
from tolaria.state.ring import SnapshotRing
from tolaria.state.rollback import Deadlines, Rollback
from tolaria.state.staging import Staging
from tolaria.training.session import Session
from tolaria.training.step import training_step


def train(session: Session, steps: int) -> None:
    for _ in range(steps):
        training_step(session, 4.0)


def state_of(session: Session) -> dict[str, torch.Tensor]:
    snapshot = capture_session(session, 0.0)
    assert snapshot.optimizer is not None
    moments = {f"{key}/{name}": t for name, kept in snapshot.optimizer.tensors.items() for key, t in kept.items()}
    return {**snapshot.parameters, **moments}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class SlowStore(CheckpointStore):
    """A store whose disk does not answer until it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2)
        self.answer = threading.Event()

    def latest_good(self, to_step: int | None = None) -> tuple[Snapshot | None, list[BadCheckpoint]]:
        assert self.answer.wait(10.0)
        return super().latest_good(to_step)


@pytest.mark.req("TOL-20", "TOL-33")
def test_a_reading_that_comes_too_late_cannot_touch_the_model(run: SmallRun) -> None:
    session, store = run.session, SlowStore(run.folder.checkpoints_path)
    train(session, 5)
    store.write(capture_session(session, 0.0), "interval")
    train(session, 5)
    kept = state_of(session)
    rollback = Rollback(session, SnapshotRing(2), store, Deadlines(0.5, 0.05), lambda bad: None)
    before = time.time()
    done = rollback.go_back("operator")
    assert done.outcome == leyline.ROLLBACK_OUTCOME_DEADLINE and not done.restored and done.full_deadline_missed
    assert before + 0.05 <= done.deadline_at_s <= time.time()
    report = rollback_message(done)
    assert report.deadline_missed and report.deadline_share > 1 and report.HasField("deadline_at")
    store.answer.set()
    wait_until(lambda: rollback._staging.late == 1)
    assert same(state_of(session), kept) and session.counters.step == 10


@pytest.mark.req("TOL-33")
def test_only_the_last_reading_on_the_same_generation_is_admitted(run: SmallRun) -> None:
    staging = Staging(run.store.latest_good)
    first = staging.fetch(None, 0, 5.0)
    assert staging.admits(first.token, 0) and not staging.admits(first.token, 1)
    second = staging.fetch(None, 0, 5.0)
    assert staging.admits(second.token, 0) and not staging.admits(first.token, 0)


@pytest.mark.req("TOL-33")
def test_a_snapshot_in_memory_that_does_not_fit_gives_way_to_a_checkpoint(run: SmallRun) -> None:
    session, ring = run.session, SnapshotRing(2)
    train(session, 5)
    run.store.write(capture_session(session, 0.0), "interval")
    kept = state_of(session)
    train(session, 5)
    ring.put(replace(capture_session(session, 0.0), parameters={}))
    done = Rollback(session, ring, run.store, Deadlines(0.5, 12.0), lambda bad: None).go_back("operator")
    assert done.outcome == leyline.ROLLBACK_OUTCOME_FULL_HIT and done.full and done.deadline_s == 12.0
    assert same(state_of(session), kept)


@pytest.mark.req("TOL-33", "KAS-19")
async def test_rollbacks_are_measured_against_their_deadlines(run: SmallRun) -> None:
    train(run.session, 5)
    run.parts.keeper.start()
    run.parts.keeper.checkpoint("final")
    events = []
    rollback = run.parts.recovery._rollback
    for full, late in ((False, False), (True, False), (True, True)):
        done = rollback.go_back("test", full=full)
        assert done.restored and 0 < rollback_message(done).deadline_share < 1 and not done.deadline_missed
        report = rollback_message(replace(done, latency_s=13.0) if late else done)
        events.append(leyline.RunEvent(kind=leyline.RUN_EVENT_KIND_ROLLBACK, rollback=report))
    points = [(point.name, point.attributes.get("tier", "")) for point in (await metered(events)).points]
    shares = [tier for name, tier in points if name == "tolaria.rollback.deadline_share"]
    assert shares == ["fast", "full", "full"]
    assert [name for name, _ in points].count("tolaria.rollback.deadline_exceeded_total") == 1
