"""Small parts: queues between the threads, the improvement probe, statistics, plans, the run folder."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.errors import IntegrityError, UnimplementedError, ValidationError
from esper_core.ids import new_run_id
from esper_runtime.improvement import CurvePoint, measure_improvement
from esper_tasks import load_task
from support.tolaria_runs import letter_spec
from tolaria.growth.book import SeedBook, SeedEntry
from tolaria.rundir import RunDirectory, RunRequest, WorkerMark
from tolaria.training.planning import resolve_plan
from tolaria.training.queues import Inbox, LatestSlot, Outbox
from tolaria.training.statistics import LossStatistics


def test_an_inbox_is_bounded_and_wakes_its_reader() -> None:
    inbox: Inbox[int] = Inbox(2)
    assert not inbox.wait(0.01)
    threading.Timer(0.01, lambda: inbox.post(1)).start()
    assert inbox.wait(5.0)
    assert inbox.post(2) and not inbox.post(3)
    assert inbox.drain() == [1, 2] and inbox.drain() == []


@given(st.lists(st.booleans(), max_size=40))
def test_a_full_outbox_drops_what_may_be_dropped_first(kinds: list[bool]) -> None:
    outbox: Outbox[tuple[int, bool]] = Outbox(5, droppable=lambda item: item[1])
    for number, droppable in enumerate(kinds):
        outbox.put((number, droppable))
    kept = outbox.take()
    assert len(kept) == min(5, len(kinds)) and outbox.dropped == max(0, len(kinds) - 5)
    assert kept == sorted(kept)
    needed = [number for number, droppable in enumerate(kinds) if not droppable]
    if len(needed) <= 4:
        assert set(needed) <= {number for number, _ in kept}


def test_a_slot_holds_the_latest_record_made_since_it_was_wanted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.want()
    assert (slot.wanted, slot.take()) == (True, None)
    slot.put(2)
    slot.put(3)
    assert (slot.wanted, slot.take(), slot.take()) == (False, 3, None)


def power_law(steps: range, scale: float = 5.0, slope: float = -0.3) -> list[CurvePoint]:
    return [CurvePoint(step, scale * step**slope) for step in steps]


def test_improvement_is_measured_against_the_extrapolated_curve() -> None:
    found = measure_improvement(power_law(range(100, 1001, 100)), CurvePoint(4000, 0.3))
    assert found is not None
    assert found.expected_loss == pytest.approx(5.0 * 4000**-0.3)
    assert found.improvement == pytest.approx(found.expected_loss - 0.3)
    assert found.standard_error == pytest.approx(0.0, abs=1e-9)


def test_one_odd_point_does_not_move_the_curve_and_noise_widens_it() -> None:
    points = power_law(range(500, 1001, 50))
    points[3] = CurvePoint(points[3].step, 40.0)
    found = measure_improvement(points, CurvePoint(2000, 0.5))
    assert found is not None and found.expected_loss == pytest.approx(5.0 * 2000**-0.3, rel=0.02)
    noisy = [CurvePoint(p.step, p.loss * (1 + 0.05 * (-1) ** i)) for i, p in enumerate(power_law(range(500, 1001, 50)))]
    near = measure_improvement(noisy, CurvePoint(1100, 0.5))
    far = measure_improvement(noisy, CurvePoint(9000, 0.5))
    assert near is not None and far is not None
    assert far.standard_error / far.expected_loss > near.standard_error / near.expected_loss > 0


def test_a_line_through_some_of_a_few_noisy_points_does_not_pass_for_a_sure_one() -> None:
    # Letter, learning rate 0.02: five passes before a seed germinated, and one with it.
    curve = [CurvePoint(109, 0.687), CurvePoint(218, 0.517), CurvePoint(327, 0.442)]
    curve += [CurvePoint(436, 0.441), CurvePoint(545, 0.362)]
    found = measure_improvement(curve, CurvePoint(1040, 0.300))
    assert found is not None and found.improvement < 0
    assert -found.improvement < 1.96 * found.standard_error < found.expected_loss / 4


def test_too_few_points_tell_nothing() -> None:
    assert measure_improvement(power_law(range(100, 301, 100)), CurvePoint(400, 0.3)) is None
    assert measure_improvement([CurvePoint(0, 3.0)] * 9, CurvePoint(400, 0.3)) is None


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), max_size=80))
def test_statistics_survive_a_checkpoint(steps: list[tuple[float, float]]) -> None:
    statistics = LossStatistics()
    for loss, norm in steps:
        statistics.observe(loss, norm)
    again = LossStatistics.from_dict(statistics.to_dict())
    assert again.to_dict() == statistics.to_dict()
    assert (again.volatility is None) == (len(steps) < 2)
    assert again.first_loss is None or math.isclose(again.first_loss, sum(loss for loss, _ in steps[:10]) / 10)


def test_a_trained_model_is_measured_by_the_losses_from_before_it_was_trained() -> None:
    former, warm = LossStatistics(), LossStatistics()
    for _ in range(10):
        former.observe(3.0, 1.0)
    warm.come_after(former)
    assert warm.first_loss is None
    for _ in range(10):
        warm.observe(0.1, 1.0)
    assert LossStatistics.from_dict(warm.to_dict()).first_loss == pytest.approx(3.0)
    harder = LossStatistics()
    harder.come_after(warm)
    for _ in range(10):
        harder.observe(7.0, 1.0)
    assert harder.first_loss == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"growth": leyline.GrowthSpec(policy="fast")}, "spec.growth.policy"),
        ({"on_control_loss": "panic"}, "spec.on_control_loss"),
        ({"parameters": [leyline.TaskParameter(name="width")]}, "spec.parameters.width"),
        ({"random_seed": 2**63}, "spec.random_seed"),
    ],
)
def test_a_wrong_request_names_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        resolve_plan("r", letter_spec(**changes), load_task("letter"))
    assert refused.value.field == field


def test_several_workers_come_later() -> None:
    with pytest.raises(UnimplementedError):
        resolve_plan("r", letter_spec(workers=2), load_task("letter"))


def test_a_request_without_a_budget_takes_the_task_s() -> None:
    plan = resolve_plan("r", letter_spec(max_steps=0), load_task("letter"))
    assert plan.budget.flops == load_task("letter").default_spec().flops_budget
    assert plan.learning_rate.policy == load_task("letter").default_spec().learning_rate_policy
    assert not plan.growth.enabled


def test_the_run_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path / "run")
    request = RunRequest(new_run_id(), letter_spec(), datetime(2026, 1, 1, tzinfo=UTC))
    folder.write_request(request)
    assert folder.read_request() == request
    assert folder.read_mark() is None and folder.read_status() is None
    folder.write_mark(WorkerMark(1, 2.5, 3, 1))
    assert folder.read_mark() == WorkerMark(1, 2.5, 3, 1)
    (folder.path / "spec.json").write_text("{}")
    with pytest.raises(IntegrityError, match="Submit the run again"):
        folder.read_request()


def test_the_curve_of_a_seed_begins_when_the_seeds_before_it_were_settled() -> None:
    book = SeedBook(curve=[CurvePoint(step, 1.0) for step in range(100, 1001, 100)])
    entry = SeedEntry("r/stem/1", "stem", "b", "d", "c", leyline.SEED_STAGE_FOSSILIZED, 200, 2, 500, 5, 10)
    assert [point.step for point in book.curve_before(700)] == [100, 200, 300, 400, 500, 600, 700]
    book.put(entry)
    assert [point.step for point in book.curve_before(200)] == [100, 200]
    assert [point.step for point in book.curve_before(700)] == [500, 600, 700]
