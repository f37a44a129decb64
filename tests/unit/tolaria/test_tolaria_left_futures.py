"""What a run went back from does not come back: no later start, export or rollback finds it on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import DiskFullError
from esper_runtime.snapshot import Snapshot
from support.tolaria_runs import SmallRun, letter_spec, open_letter, small_run
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import CheckpointRecord, CheckpointStore, Reason
from tolaria.training.loop import TrainingLoop
from tolaria.training.orders import Order
from tolaria.training.session import Session
from tolaria.worker.start import begin

SPEC = letter_spec(checkpoint_interval_steps=5)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    """Checkpoints at 5, 10, ...; snapshots in memory at 4, 8, ...; the run stands at step 10."""
    made = small_run(tmp_path, SPEC, snapshot_interval_steps=4)
    made.parts.keeper.start()
    train_until(made, 10)
    yield made
    made.parts.keeper.close()
    made.events.close()


def train_until(run: SmallRun, step: int) -> None:
    loop = TrainingLoop(run.parts)
    while run.session.counters.step < step:
        assert loop.turn() is None


def names(run: SmallRun) -> list[str]:
    return [record.path.name for record in run.store.records()]


def resumed(run: SmallRun) -> Session:
    """The run as a new process finds it after a crash."""
    session = open_letter(SPEC, run.session.plan.run_id)
    assert begin(session, CheckpointStore(run.folder.checkpoints_path, 3)).resumed
    return session


def tensors(session: Session) -> dict[str, torch.Tensor]:
    held = capture_session(session, 0.0)
    assert held.optimizer is not None
    moments = {f"{key}/{name}": t for name, kept in held.optimizer.tensors.items() for key, t in kept.items()}
    return {**held.parameters, **held.buffers, **moments}


def go_back(run: SmallRun, to_step: int | None = None) -> None:
    run.links.inbox.post(Order("back", leyline.ORDER_KIND_ROLLBACK, to_step=to_step))
    assert run.parts.fence.cross() is None


@pytest.mark.req("TOL-33")
def test_a_crash_after_a_rollback_resumes_from_where_it_went_back_to(run: SmallRun) -> None:
    go_back(run)
    assert run.session.counters.step == 8 and names(run) == ["0000000008-rollback", "0000000005-interval"]
    again = resumed(run)
    kept, found = tensors(run.session), tensors(again)
    assert again.counters.step == 8 and kept.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    train_until(run, 15)
    run.parts.keeper.close()
    assert names(run) == ["0000000015-interval", "0000000010-interval", "0000000008-rollback"]


@pytest.mark.req("TOL-33")
def test_what_a_recovery_learned_is_known_after_a_crash(run: SmallRun) -> None:
    with torch.no_grad():
        next(run.session.host.model.parameters()).fill_(torch.nan)
    assert TrainingLoop(run.parts).turn() is None
    assert run.session.counters.step == 8 and run.session.learning_rate.state.scale == 0.5
    again = resumed(run)
    assert (again.counters.step, again.counters.rollbacks, again.learning_rate.state.scale) == (8, 1, 0.5)


def test_an_older_state_than_all_on_disk_is_written_before_they_go(run: SmallRun) -> None:
    go_back(run, to_step=0)
    assert run.session.counters.step == 0 and names(run) == ["0000000000-rollback"]
    assert not list(run.folder.checkpoints_path.glob(".*"))


def test_a_rollback_behind_which_nothing_lies_on_disk_writes_nothing(run: SmallRun) -> None:
    train_until(run, 12)
    go_back(run)
    assert run.session.counters.step == 12 and names(run) == ["0000000010-interval", "0000000005-interval"]


class FullStore(CheckpointStore):
    """A store on a full disk."""

    def write(self, snapshot: Snapshot, reason: Reason) -> CheckpointRecord:
        raise DiskFullError("The disk is full. Free some space.")


@pytest.mark.parametrize(
    ("to_step", "left"), [(8, ["0000000005-interval"]), (0, ["0000000010-interval", "0000000005-interval"])]
)
def test_on_a_full_disk_the_older_checkpoint_counts_and_the_last_ones_are_not_given_away(
    run: SmallRun, to_step: int, left: list[str]
) -> None:
    run.parts.keeper.close()
    run.parts.keeper._writer._store = FullStore(run.folder.checkpoints_path, 2)
    go_back(run, to_step=to_step)
    assert run.session.counters.step == to_step and names(run) == left
