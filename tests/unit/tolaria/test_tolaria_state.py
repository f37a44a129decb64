"""State is kept and put back bit for bit: weights, moments, random state, data cursor, learning rate, topology."""

from __future__ import annotations

import pytest
import torch

from esper_core import leyline
from support.tolaria_runs import SEED, SmallRun, attach, letter_spec, open_letter, prepare_kernel, set_stage
from tolaria.growth.executor import DirectiveExecutor
from tolaria.state.capture import capture_session, restore_session
from tolaria.state.checkpoints import CheckpointStore
from tolaria.state.recovery import Recovery
from tolaria.state.ring import SnapshotRing
from tolaria.state.rollback import Deadlines, Rollback
from tolaria.training.optimizer import BASE_LR
from tolaria.training.session import Session
from tolaria.training.step import training_step


def train(session: Session, steps: int) -> list[float]:
    return [training_step(session, 4.0).loss for _ in range(steps)]


def graft_live(run: SmallRun) -> None:
    executor = DirectiveExecutor(run.parts.operations, lambda: run.session.counters.step)
    prepare_kernel(run.session, run.links, SEED)
    for order in (
        attach(run.session, SEED),
        set_stage(run.session, SEED, leyline.SEED_STAGE_TRAINING),
        set_stage(run.session, SEED, leyline.SEED_STAGE_BLENDING),
    ):
        order.generation = run.session.host.generation
        assert executor.apply(order).applied


def moments(session: Session) -> dict[str, dict[str, torch.Tensor]]:
    names = {id(found.tensor): found.name for found in session.host.named_parameters()}
    return {
        names[id(parameter)]: {key: value.clone() for key, value in state.items()}
        for parameter, state in session.optimizer.state.items()
    }


def weights(session: Session) -> dict[str, torch.Tensor]:
    return {found.name: found.tensor.detach().clone() for found in session.host.named_parameters()}


def same(left: object, right: object) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    assert isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
    return torch.equal(left, right)


def test_resuming_in_another_session_gives_the_same_steps(run: SmallRun) -> None:
    straight = run.session
    train(straight, 20)
    graft_live(run)
    train(straight, 10)
    store = CheckpointStore(run.folder.checkpoints_path, 2)
    store.write(capture_session(straight, 1.0), "interval")
    expected = train(straight, 15)
    resumed = open_letter(letter_spec(), straight.plan.run_id)
    snapshot, bad = store.latest_good()
    assert snapshot is not None and not bad
    restore_session(resumed, snapshot)
    assert resumed.counters.step == 30 and resumed.book.entries.keys() == {SEED}
    assert train(resumed, 15) == expected
    assert same(weights(resumed), weights(straight)) and same(moments(resumed), moments(straight))
    assert resumed.counters.flops == straight.counters.flops
    assert resumed.sampler.cursor == straight.sampler.cursor


def test_a_fast_rollback_restores_weights_and_moments_over_a_graft(run: SmallRun) -> None:
    session = run.session
    train(session, 20)
    run.parts.keeper.start()
    kept, kept_moments = weights(session), moments(session)
    spent = session.counters.flops
    train(session, 5)
    graft_live(run)
    train(session, 5)
    after = session.counters.flops
    assert after > spent
    done = run.parts.recovery._rollback.go_back("test")
    assert done.outcome == leyline.ROLLBACK_OUTCOME_FAST_HIT and done.restored_step == 20
    assert done.deadline_at_s > 0 and done.latency_s < 0.5
    assert same(weights(session), kept) and same(moments(session), kept_moments)
    assert session.counters.step == 20 and session.counters.flops == after and session.counters.rollbacks == 1
    assert not session.host.seeds() and session.host.generation == 2
    assert len(session.optimizer.param_groups) == 1


def rollback_of(session: Session, store: CheckpointStore, told: list[str]) -> Rollback:
    return Rollback(session, SnapshotRing(2), store, Deadlines(0.5, 12.0), lambda bad: told.append(bad.problem))


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(run: SmallRun, damage: str) -> None:
    session = run.session
    store = CheckpointStore(run.folder.checkpoints_path, 2)
    train(session, 5)
    store.write(capture_session(session, 0.0), "interval")
    kept = weights(session)
    train(session, 5)
    newest = store.write(capture_session(session, 0.0), "interval").path
    tensors = newest / "tensors.safetensors"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:100])
    elif damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)
    else:
        (newest / "manifest.json").write_text("{")
    told: list[str] = []
    done = rollback_of(session, store, told).go_back("operator", full=True)
    assert done.outcome == leyline.ROLLBACK_OUTCOME_FULL_HIT and done.restored_step == 5
    assert same(weights(session), kept)
    assert len(told) == 1 and told[0].split(":")[0] in ("tensors_truncated", "tensors_digest", "manifest_truncated")


def test_without_any_state_a_rollback_misses(run: SmallRun) -> None:
    done = rollback_of(run.session, CheckpointStore(run.folder.checkpoints_path, 2), []).go_back("operator")
    assert done.outcome == leyline.ROLLBACK_OUTCOME_MISS and not done.restored


@pytest.mark.req("TOL-25")
def test_only_the_last_checkpoints_are_kept_and_none_is_a_pickle(run: SmallRun) -> None:
    store = CheckpointStore(run.folder.checkpoints_path, 2)
    for _ in range(4):
        train(run.session, 2)
        store.write(capture_session(run.session, 0.0), "interval")
    assert [record.step for record in store.records()] == [8, 6]
    files = {path.name for path in run.folder.checkpoints_path.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "tensors.safetensors"}
    header = next(run.folder.checkpoints_path.rglob("*.safetensors")).read_bytes()[8:9]
    assert header == b"{"


def poison(session: Session) -> None:
    with torch.no_grad():
        next(iter(session.host.named_parameters())).tensor.fill_(float("nan"))


def recovery_of(run: SmallRun, limit: int) -> Recovery:
    ring = SnapshotRing(3)
    ring.put(capture_session(run.session, 0.0))
    store = CheckpointStore(run.folder.checkpoints_path, 2)
    rollback = Rollback(run.session, ring, store, Deadlines(0.5, 12.0), lambda bad: None)
    return Recovery(run.session, rollback, ring, run.parts.operations, limit)


def test_a_nan_goes_back_halves_the_rate_and_gives_up_after_the_limit(run: SmallRun) -> None:
    train(run.session, 5)
    kept = weights(run.session)
    recovery = recovery_of(run, limit=2)
    scales = []
    for attempt in range(3):
        poison(run.session)
        result = training_step(run.session, 4.0)
        assert result.problem == "non_finite_loss" and result.step == 5
        recovered = recovery.recover(result.problem)
        assert same(weights(run.session), kept)
        assert bool(recovered.give_up) == (attempt == 2)
        scales.append(run.session.learning_rate.state.scale)
    assert scales == [0.5, 0.25, 0.125]


def test_an_unsettled_seed_is_blamed_first_and_taken_out_the_second_time(run: SmallRun) -> None:
    train(run.session, 5)
    graft_live(run)
    recovery = recovery_of(run, limit=3)
    poison(run.session)
    first = recovery.recover(training_step(run.session, 4.0).problem)
    assert not first.detached and not run.session.book.entries[SEED].finite
    poison(run.session)
    second = recovery.recover(training_step(run.session, 4.0).problem)
    assert [entry.seed_id for entry in second.detached] == [SEED]
    assert not run.session.host.seeds() and run.session.learning_rate.state.scale == 1.0


def test_an_explosion_is_found(run: SmallRun) -> None:
    train(run.session, 12)
    with torch.no_grad():
        for found in run.session.host.named_parameters():
            found.tensor.mul_(60)
    assert training_step(run.session, 4.0).problem == "loss_explosion"


def test_every_group_keeps_its_base_rate_through_a_checkpoint(run: SmallRun) -> None:
    graft_live(run)
    train(run.session, 2)
    snapshot = capture_session(run.session, 0.0)
    restore_session(run.session, snapshot)
    base = run.session.plan.optimizer.learning_rate
    assert [group[BASE_LR] for group in run.session.optimizer.param_groups] == [base, base]
