"""Field reports: one per command, when its window closes, worth what was seen and not what was hoped."""

from __future__ import annotations

from typing import Any

import pytest

from esper_core import leyline
from support.tamiyo_parts import Bench
from support.tamiyo_run import FakeRun
from tamiyo.convert.packets import observation_of
from tamiyo.journal import DecisionIndex, DecisionRecord
from tamiyo.reporting.book import ReportBook
from tamiyo.reporting.window import WindowRules
from tamiyo.reporting.worth import Evidence, outcome_of
from tamiyo.restoring import restore
from tamiyo.runs import RunTable

pytestmark = pytest.mark.req("TAM-24")

SUCCESS, NEUTRAL = leyline.FIELD_REPORT_OUTCOME_SUCCESS, leyline.FIELD_REPORT_OUTCOME_NEUTRAL
REGRESSION, ABORTED = leyline.FIELD_REPORT_OUTCOME_REGRESSION, leyline.FIELD_REPORT_OUTCOME_ABORTED
GERMINATE, CULL = leyline.SEED_OPERATION_GERMINATE, leyline.SEED_OPERATION_CULL
TRAINING, PROBATIONARY = leyline.SEED_STAGE_TRAINING, leyline.SEED_STAGE_PROBATIONARY
FOSSILIZED, CULLED = leyline.SEED_STAGE_FOSSILIZED, leyline.SEED_STAGE_CULLED


class Diary:
    """A run with its controller and book, and every record that was written."""

    def __init__(self) -> None:
        self.bench, self.run = Bench(), FakeRun()
        self.book = ReportBook(WindowRules(), self.bench.clock)
        self.records: list[DecisionRecord] = []

    def step(self, step: int, **changes: Any) -> list[leyline.FieldReport]:
        """Decide a packet as the desk does and return the reports that fell due."""
        packet = self.run.packet(step, context=step == 1, **changes)
        outcome = self.bench.controller.decide(packet)
        record = DecisionRecord(outcome.decision, outcome.inputs)
        self.records.append(record)
        assert outcome.memory is not None
        assert outcome.seen is not None
        due = self.book.observe(outcome.seen, self.bench.clock.monotonic())
        self.book.open(record, outcome.memory, self.bench.clock.monotonic())
        return due

    def germinate(self) -> leyline.AdaptationCommand:
        """Bring the run to its first command."""
        self.step(1)
        self.step(79, validation=leyline.ValidationMetrics(loss=1.0, step=79))
        self.step(80)
        command = self.records[-1].command
        assert command is not None
        return command


PROVED: dict[str, Any] = {"contribution": 0.1, "contribution_low": 0.06, "contribution_high": 0.14}


def test_a_kept_seed_is_a_success_and_the_window_lasts_until_it_is_settled() -> None:
    diary = Diary()
    command = diary.germinate()
    for step in range(90, 400, 10):
        assert diary.step(step, seeds=[diary.run.seed(command, TRAINING)]) == []
    after = leyline.ValidationMetrics(loss=0.8, step=400)
    diary.step(400, seeds=[diary.run.seed(command, PROBATIONARY, **PROVED)], validation=after)
    keep = diary.records[-1].command
    assert keep is not None
    (report,) = diary.step(410, seeds=[diary.run.seed(command, FOSSILIZED)])
    assert report.report_id == f"fr-synth-{command.command_id}"
    assert (report.outcome, report.operation, report.site) == (SUCCESS, GERMINATE, command.target_site)
    assert report.seed_id == f"{diary.run.run_id}/{command.target_site}/1"
    assert (report.window_start_step, report.window_end_step) == (81, 410)
    assert report.delta.loss_delta == pytest.approx(-0.2)
    assert report.delta.contribution == pytest.approx(0.1)
    assert report.delta.parameters_added == 544
    assert report.follow_up_actions == [f"FOSSILIZE {keep.command_id}"]
    leyline.validate(report)


def test_the_deciding_step_is_not_part_of_the_window() -> None:
    diary = Diary()
    command = diary.germinate()
    diary.step(80, loss_ewma=9.0)
    (report,) = diary.step(300, loss_ewma=0.9, seeds=[diary.run.seed(command, FOSSILIZED)])
    extra = {one.name: one.value for one in report.extra_metrics}
    assert (extra["training_loss_min"], extra["training_loss_max"]) == (0.9, 0.9)


def test_a_culled_seed_whose_removal_left_the_loss_alone_is_neutral() -> None:
    diary = Diary()
    command = diary.germinate()
    diary.step(90, seeds=[diary.run.seed(command, TRAINING)])
    (report,) = diary.step(300, seeds=[])
    assert (report.outcome, report.delta.parameters_added) == (NEUTRAL, 0)
    assert "taken out" in report.notes


def test_a_loss_that_rose_is_a_regression() -> None:
    diary = Diary()
    command = diary.germinate()
    diary.step(90, seeds=[diary.run.seed(command, TRAINING)])
    (report,) = diary.step(300, seeds=[], validation=leyline.ValidationMetrics(loss=1.1, step=300))
    assert report.outcome == REGRESSION


def test_a_seed_that_never_came_up_is_aborted() -> None:
    diary = Diary()
    diary.germinate()
    assert diary.step(90) == []
    diary.bench.clock.advance(31.0)
    (report,) = diary.step(100)
    assert (report.outcome, report.seed_id) == (ABORTED, "")


def test_a_run_that_breaks_off_is_aborted_and_one_that_ends_is_judged() -> None:
    for broken, outcome in ((True, ABORTED), (False, SUCCESS)):
        diary = Diary()
        command = diary.germinate()
        diary.step(300, seeds=[diary.run.seed(command, PROBATIONARY, **PROVED)])
        reports = diary.book.run_ended(diary.run.run_id, broken=broken)
        assert {report.outcome for report in reports} == {outcome}
        assert len(reports) == 2


def test_a_run_that_ends_before_its_seed_is_settled_is_aborted() -> None:
    diary = Diary()
    command = diary.germinate()
    diary.step(300, seeds=[diary.run.seed(command, TRAINING)])
    (report,) = diary.book.run_ended(diary.run.run_id, broken=False)
    assert report.outcome == ABORTED


def test_a_halted_run_closes_its_windows() -> None:
    diary = Diary()
    diary.germinate()
    (report,) = diary.step(90, run_state=leyline.RUN_STATE_HALTED)
    assert report.outcome == ABORTED


def test_every_command_gets_exactly_one_report() -> None:
    diary = Diary()
    command = diary.germinate()
    first = diary.step(300, seeds=[diary.run.seed(command, FOSSILIZED)])
    again = diary.step(310, seeds=[diary.run.seed(command, FOSSILIZED)])
    diary.book.open(diary.records[2], diary.bench.runs.open(diary.run.run_id), 0.0)
    rest = diary.book.run_ended(diary.run.run_id, broken=True)
    assert (len(first), again) == (1, [])
    assert command.command_id not in {report.command_id for report in rest}


def test_a_restart_forgets_no_window_and_doubles_no_report() -> None:
    diary = Diary()
    command = diary.germinate()
    diary.step(90, seeds=[diary.run.seed(command, TRAINING)])
    book, runs, index = ReportBook(WindowRules(), diary.bench.clock), RunTable(), DecisionIndex(100)
    assert restore(diary.records, runs, index, book, diary.bench.clock) == []
    assert book.open_count == 1
    memory = runs.open(diary.run.run_id)
    assert (memory.germinated, [one.kind for one in memory.sent]) == (1, ["GERMINATE"])
    assert index.about(f"{diary.run.run_id}/{command.target_site}/1") == [diary.records[2]]
    last = observation_of(diary.run.packet(300, seeds=[diary.run.seed(command, FOSSILIZED)]))
    (report,) = book.observe(last, 0.0)
    assert report.command_id == command.command_id
    reported = ReportBook(WindowRules(), diary.bench.clock)
    reported.mark_reported([command.command_id])
    restore(diary.records, RunTable(), DecisionIndex(100), reported, diary.bench.clock)
    assert reported.open_count == 0


@pytest.mark.parametrize(
    ("evidence", "outcome"),
    [
        (Evidence(GERMINATE, kept=True, contribution_low=0.01, contribution_high=0.1), SUCCESS),
        (Evidence(GERMINATE, kept=True, contribution_low=-0.1, contribution_high=-0.01), REGRESSION),
        (Evidence(GERMINATE, kept=True, contribution_low=-0.1, contribution_high=0.1), NEUTRAL),
        (Evidence(GERMINATE, kept=True, loss_before=1.0, loss_after=0.5), NEUTRAL),
        (Evidence(GERMINATE, kept=True, loss_before=1.0, loss_after=1.021), REGRESSION),
        (Evidence(GERMINATE, removed=True, contribution_low=0.01, contribution_high=0.1), NEUTRAL),
        (Evidence(CULL, removed=True, contribution_low=-0.1, contribution_high=0.0), SUCCESS),
        (Evidence(CULL, removed=True, loss_before=1.0, loss_after=1.5), REGRESSION),
        (Evidence(CULL, removed=True, loss_before=0.0, loss_after=1.5), NEUTRAL),
    ],
)
def test_worth_follows_contribution_and_loss(evidence: Evidence, outcome: int) -> None:
    assert outcome_of(evidence, 0.02) == outcome
