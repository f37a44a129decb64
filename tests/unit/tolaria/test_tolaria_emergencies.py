"""Emergencies at the fence of a run: timestamped, told, lowered, cleared; level four ends it with a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from esper_core import leyline
from esper_core.errors import StateConflictError, ValidationError
from esper_core.journal import read_journal
from support.tolaria_runs import SmallRun, letter_spec, small_run
from tolaria.state.capture import capture_session
from tolaria.state.checkpoints import BadCheckpoint
from tolaria.training.loop import TrainingLoop
from tolaria.training.orders import Order
from tolaria.worker.ending import conclude


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    made = small_run(tmp_path, emergency_hold_s=0.0)
    yield made
    made.events.close()


def notes(run: SmallRun) -> list[leyline.EmergencyNote]:
    events = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    return [event.emergency for event in events if event.HasField("emergency")]


def send(run: SmallRun, kind: int, level: int, **details: object) -> None:
    name = f"order-{kind}-{level}-{len(notes(run))}"
    run.links.inbox.post(Order(name, kind, reason="smoke", level=level, **details))  # type: ignore[arg-type]
    run.parts.fence.cross()


@pytest.mark.req("TOL-5")
def test_every_emergency_is_timestamped_whether_its_sender_did_so_or_not(run: SmallRun) -> None:
    before = datetime.now(UTC)
    send(run, leyline.ORDER_KIND_EMERGENCY, 1)
    send(run, leyline.ORDER_KIND_EMERGENCY, 2, triggered_at_s=1_000_000_000.5)
    run.parts.fence.halt_for_emergency("A trigger of the run's own.")
    first, second, local = (note.triggered_at.ToDatetime(tzinfo=UTC) for note in notes(run))
    assert before <= first <= local <= datetime.now(UTC)
    assert second == datetime.fromtimestamp(1_000_000_000.5, UTC)
    assert notes(run)[-1].origin == "tolaria-worker" and notes(run)[-1].signal_id


@pytest.mark.req("TOL-6")
def test_a_lowered_level_ends_the_conservative_state(run: SmallRun) -> None:
    send(run, leyline.ORDER_KIND_EMERGENCY, leyline.EMERGENCY_LEVEL_CONSERVATIVE)
    assert run.board.state == leyline.RUN_STATE_CONSERVATIVE
    send(run, leyline.ORDER_KIND_CLEAR_EMERGENCY, leyline.EMERGENCY_LEVEL_NOTICE)
    assert run.board.state == leyline.RUN_STATE_RUNNING
    assert [(note.level_now, note.cleared) for note in notes(run)] == [(3, False), (1, False)]
    send(run, leyline.ORDER_KIND_CLEAR_EMERGENCY, 0)
    assert (notes(run)[-1].level_now, notes(run)[-1].cleared) == (0, True)


@pytest.mark.req("TOL-6")
def test_orders_that_make_no_sense_are_refused_in_the_catalogues_words(run: SmallRun) -> None:
    send(run, leyline.ORDER_KIND_EMERGENCY, 9)
    send(run, leyline.ORDER_KIND_CLEAR_EMERGENCY, leyline.EMERGENCY_LEVEL_HALT)
    codes = [answer.error_code for answer in run.links.to_tolaria.take()]
    assert codes == [ValidationError.code, ValidationError.code] and not notes(run)


def test_a_level_cannot_be_lowered_before_its_time(tmp_path: Path) -> None:
    made = small_run(tmp_path, emergency_hold_s=60.0)
    send(made, leyline.ORDER_KIND_EMERGENCY, 3)
    send(made, leyline.ORDER_KIND_CLEAR_EMERGENCY, 1)
    assert made.links.to_tolaria.take()[-1].error_code == StateConflictError.code
    assert made.board.state == leyline.RUN_STATE_CONSERVATIVE
    made.events.close()


@pytest.mark.req("TOL-24")
def test_an_emergency_finds_room_in_a_full_inbox_and_what_waits_is_told_before_the_run_ends(tmp_path: Path) -> None:
    made = small_run(tmp_path, outbox_limit=16, emergency_signals_per_minute=1)
    sent = [
        Order(f"o{number}", leyline.ORDER_KIND_EMERGENCY, "x", level=1, signal_id=f"s{number}") for number in range(20)
    ]
    assert [made.links.inbox.post(order, urgent=True) for order in sent] == [True] * 20
    assert not made.links.inbox.post(Order("p", leyline.ORDER_KIND_PAUSE))
    ending = TrainingLoop(made.parts).run()
    conclude(made.parts, made.board, ending, 0)
    assert ending.how == "completed"
    told = [note for note in notes(made) if note.signal_id.startswith("s")]
    assert [note.signal_id for note in told] == [f"s{number}" for number in range(20)]
    assert [note.waited for note in told] == [False] + [True] * 19
    made.events.close()


def poison(run: SmallRun) -> None:
    with torch.no_grad():
        next(iter(run.session.host.named_parameters())).tensor.fill_(float("nan"))


@pytest.mark.req("TOL-35")
def test_a_missed_full_deadline_halts_with_a_checkpoint_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, gate = small_run(tmp_path, full_rollback_deadline_s=0.05), threading.Event()
    made.store.write(capture_session(made.session, 0.0), "interval")
    loop = TrainingLoop(made.parts)
    loop.turn()
    poison(made)
    staging = made.parts.recovery._rollback._staging
    read = staging._read

    def slow(to_step: int | None) -> tuple[object, list[BadCheckpoint]]:
        gate.wait(10.0)
        return read(to_step)

    monkeypatch.setattr(staging, "_read", slow)
    ending = loop.run()
    conclude(made.parts, made.board, ending, 0)
    gate.set()
    assert ending.how == "halted" and "missed its deadline" in ending.reason
    (note,) = notes(made)
    assert (note.level, note.origin) == (leyline.EMERGENCY_LEVEL_HALT, "tolaria-worker")
    assert made.store.records()[0].reason == "halt" and made.board.state == leyline.RUN_STATE_HALTED
    made.events.close()


@pytest.mark.req("TOL-35")
def test_a_streak_of_failed_epochs_halts_with_a_checkpoint_and_is_told(tmp_path: Path) -> None:
    spec = letter_spec(batch_size=4000, max_steps=100)
    made = small_run(tmp_path, spec, snapshot_interval_steps=1, rollback_limit=50)
    made.parts.keeper.start()
    loop, poisoned = TrainingLoop(made.parts), -1
    ending = None
    while ending is None:
        if made.session.epoch > poisoned:
            poisoned = made.session.epoch
            poison(made)
        ending = loop.turn()
    conclude(made.parts, made.board, ending, 0)
    assert "3 epochs in a row failed" in ending.reason and made.session.counters.rollbacks == 3
    assert [note.level for note in notes(made)] == [leyline.EMERGENCY_LEVEL_HALT]
    assert made.store.records()[0].reason == "halt"
    made.events.close()
