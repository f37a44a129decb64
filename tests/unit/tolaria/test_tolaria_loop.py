"""The loop spends exactly its budget, obeys at fences, and outlives a seed that raises."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import ValidationError
from esper_core.journal import read_journal
from support.tolaria_runs import SEED, SmallRun, attach, letter_spec, open_letter, prepare_kernel, set_stage, small_run
from tolaria.growth.prepared import PreparedKernel
from tolaria.training.budget import Budget, Spent
from tolaria.training.links import BoundaryMark, Greeting, GreetingWanted
from tolaria.training.loop import TrainingLoop
from tolaria.training.orders import Order, OrderOutcome, RateChange


def events(run: SmallRun) -> list[leyline.RunEvent]:
    return [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]


def order(kind: int, **details: object) -> Order:
    return Order(f"order-{kind}", kind, **details)  # type: ignore[arg-type]


def test_a_run_ends_at_its_steps(run: SmallRun) -> None:
    assert TrainingLoop(run.parts).run().how == "completed"
    assert run.session.counters.step == 60
    assert run.session.counters.flops == 60 * run.session.cost.step


def test_flops_are_never_overspent(tmp_path: Path) -> None:
    cost = open_letter().cost.step
    made = small_run(tmp_path, letter_spec(max_steps=0, flops_budget=10 * cost + cost - 1))
    TrainingLoop(made.parts).run()
    assert made.session.counters.step == 10
    made.events.close()


@given(steps=st.integers(0, 50), epochs=st.integers(0, 5), flops=st.integers(0, 10**6), spent=st.integers(0, 60))
def test_a_budget_allows_only_what_fits(steps: int, epochs: int, flops: int, spent: int) -> None:
    if not steps and not epochs and not flops:
        with pytest.raises(ValidationError):
            Budget()
        return
    budget = Budget(steps, epochs, flops)
    now = Spent(spent, spent // 10, spent * 1000)
    most = budget.most_steps(10)
    assert most == min(steps or math.inf, epochs * 10 or math.inf)
    assert budget.affords(now.flops) == (not flops or now.flops <= flops)
    assert 0.0 <= budget.fraction(spent, now.flops, 10) <= 1.0
    assert budget.total_steps(now, 1000, 10) >= 0


def test_a_halt_ends_the_run_at_the_next_fence_and_is_answered(run: SmallRun) -> None:
    run.links.inbox.post(order(leyline.ORDER_KIND_HALT, reason="enough"))
    ending = TrainingLoop(run.parts).run()
    assert (ending.how, ending.reason) == ("halted", "enough")
    assert run.links.to_tolaria.take() == [OrderOutcome(f"order-{leyline.ORDER_KIND_HALT}", True)]


def test_a_repeated_order_is_answered_from_memory(run: SmallRun) -> None:
    run.parts.keeper.start()
    for _ in range(2):
        run.links.inbox.post(order(leyline.ORDER_KIND_ROLLBACK))
        run.parts.fence.cross()
    first, second = run.links.to_tolaria.take()
    assert first is second and first.rollback is not None and first.rollback.restored_step == 0
    assert run.session.counters.rollbacks == 1


def test_a_paused_run_waits_at_the_fence_until_it_is_resumed(run: SmallRun) -> None:
    run.links.inbox.post(order(leyline.ORDER_KIND_PAUSE, reason="look"))
    run.links.inbox.post(order(leyline.ORDER_KIND_RESUME))
    run.parts.fence.cross()
    states = [event.state.to_state for event in events(run) if event.WhichOneof("payload") == "state"]
    assert states == [leyline.RUN_STATE_PAUSED, leyline.RUN_STATE_RUNNING]


def test_an_emergency_of_level_four_halts(run: SmallRun) -> None:
    run.links.inbox.post(order(leyline.ORDER_KIND_EMERGENCY, level=leyline.EMERGENCY_LEVEL_HALT, reason="fire"))
    assert TrainingLoop(run.parts).run().reason == "Emergency: fire"
    assert [event.emergency.reason for event in events(run) if event.HasField("emergency")] == ["fire"]


def test_control_loss_makes_the_run_conservative_and_its_end_is_told(run: SmallRun) -> None:
    run.links.control.set_lost("tamiyo", "It is away.")
    run.parts.fence.cross()
    assert run.board.state == leyline.RUN_STATE_CONSERVATIVE
    run.links.control.set_back("tamiyo")
    run.parts.fence.cross()
    assert run.board.state == leyline.RUN_STATE_RUNNING


def test_control_loss_halts_where_that_was_asked_for(tmp_path: Path) -> None:
    made = small_run(tmp_path, letter_spec(on_control_loss="halt"))
    made.links.control.set_lost("kasmina", "It is away.")
    ending = TrainingLoop(made.parts).run()
    assert ending.how == "halted" and "kasmina is lost" in ending.reason
    made.events.close()


def test_a_rate_change_holds_from_the_next_step(run: SmallRun) -> None:
    run.links.inbox.post(RateChange("c", 0.5))
    run.parts.fence.cross()
    assert run.session.learning_rate.state.scale == 0.5


def test_a_greeting_begins_the_outbox_anew(run: SmallRun) -> None:
    run.links.to_kasmina.put(BoundaryMark(1, 0, 0, False, False))
    run.links.inbox.post(GreetingWanted())
    run.parts.fence.cross()
    (greeting,) = run.links.to_kasmina.take()
    assert isinstance(greeting, Greeting) and greeting.total_steps == 60


def broken(kernel: PreparedKernel) -> None:
    def forward(*_: object) -> None:
        raise RuntimeError("seed is broken")

    kernel.module.forward = forward


def test_a_seed_that_raises_is_taken_out_and_the_host_goes_on(run: SmallRun) -> None:
    kernel = prepare_kernel(run.session, run.links, SEED)
    for item in (attach(run.session, SEED), set_stage(run.session, SEED, leyline.SEED_STAGE_TRAINING)):
        item.generation = run.session.host.generation
        run.links.inbox.post(item)
        run.parts.fence.cross()
    broken(kernel)
    assert TrainingLoop(run.parts).run().how == "completed"
    assert run.session.counters.step == 60 and not run.session.host.seeds()
    (told,) = [event.seed for event in events(run) if event.HasField("seed")]
    assert told.to_stage == leyline.SEED_STAGE_CULLED and "seed is broken" in told.reason
    assert run.links.greet_again.is_set()


def test_an_error_of_the_host_itself_is_not_blamed_on_a_seed(run: SmallRun) -> None:
    def forward(*_: object) -> None:
        raise RuntimeError("host is broken")

    run.session.host.model.forward = forward
    with pytest.raises(RuntimeError, match="host is broken"):
        TrainingLoop(run.parts).run()


def test_what_is_unsettled_at_the_end_is_taken_out_and_told(run: SmallRun) -> None:
    before = run.session.host.parameter_count()
    prepare_kernel(run.session, run.links, SEED)
    run.links.inbox.post(attach(run.session, SEED))
    assert TrainingLoop(run.parts).run().how == "completed"
    assert run.session.host.parameter_count() == before
    (told,) = [event.seed for event in events(run) if event.HasField("seed")]
    assert "the run ended before a decision" in told.reason
    marks = [item for item in run.links.to_kasmina.take() if isinstance(item, BoundaryMark)]
    assert marks[-1].final


def test_events_are_numbered_without_a_gap(run: SmallRun) -> None:
    TrainingLoop(run.parts).run()
    run.parts.reporter.progressed()
    assert [event.sequence for event in events(run)] == list(range(1, run.events.sequence + 1))
