"""Nissa keeps what happened once, shows the last value of every metric, and keeps the names that dashboards know."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.telemetry import Instruments, TelemetryBuilder, definition_of
from nissa.board import MetricBoard
from nissa.entries import entries_of
from nissa.history import History, HistoryQuery
from nissa.intake import Intake, ReportCounter

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Observatory:
    """An intake with everything behind it, as the service wires it."""

    def __init__(self, folder: Path, max_series: int = 100) -> None:
        self.registry = CollectorRegistry()
        history = History(folder / "history.sqlite")
        self.intake = Intake(history, MetricBoard(max_series), ReportCounter(history), Instruments(self.registry))
        self.registry.register(self.intake.board)
        self.registry.register(self.intake.reports)

    def page(self) -> str:
        return generate_latest(self.registry).decode()


@pytest.fixture
def observatory(tmp_path: Path) -> Observatory:
    return Observatory(tmp_path)


def report(number: int, outcome: leyline.FieldReportOutcome.ValueType) -> leyline.FieldReport:
    return leyline.FieldReport(
        version=1,
        report_id=f"fr-synth-{number}",
        command_id=f"command-{number}",
        training_run_id="run",
        seed_id="run/site/1",
        outcome=outcome,
        issued_at=to_timestamp(NOW),
        notes="the loss went down",
    )


def moved(number: int) -> leyline.RunEvent:
    return leyline.RunEvent(
        version=1,
        event_id=f"event-{number}",
        training_run_id="run",
        kind=leyline.RUN_EVENT_KIND_SEED_STAGE,
        occurred_at=to_timestamp(NOW),
        global_step=number,
        seed=leyline.SeedTransition(
            training_run_id="run",
            seed_id="run/site/1",
            site="site",
            blueprint_id="norm.v1",
            from_stage=leyline.SEED_STAGE_TRAINING,
            to_stage=leyline.SEED_STAGE_BLENDING,
            reason="G2 passed",
        ),
    )


@pytest.mark.req("NIS-2")
async def test_field_reports_are_counted_by_outcome_once_and_over_restarts(tmp_path: Path) -> None:
    first = Observatory(tmp_path)
    await first.intake.take(report(1, leyline.FIELD_REPORT_OUTCOME_SUCCESS), "tamiyo")
    await first.intake.take(report(1, leyline.FIELD_REPORT_OUTCOME_SUCCESS), "tamiyo")
    await first.intake.take(report(2, leyline.FIELD_REPORT_OUTCOME_NEUTRAL), "tamiyo")
    again = Observatory(tmp_path)
    for page in (first.page(), again.page()):
        assert 'esper_field_reports_total{outcome="SUCCESS"} 1.0' in page
        assert 'esper_field_reports_total{outcome="NEUTRAL"} 1.0' in page


async def test_an_event_that_comes_twice_is_kept_once(observatory: Observatory) -> None:
    assert await observatory.intake.take(moved(1), "tolaria") == 1
    assert await observatory.intake.take(moved(1), "tolaria") == 0
    assert observatory.intake.history.count() == 1


async def test_the_way_of_a_seed_can_be_told_again(observatory: Observatory) -> None:
    await observatory.intake.take(moved(7), "tolaria")
    await observatory.intake.take(report(1, leyline.FIELD_REPORT_OUTCOME_SUCCESS), "tamiyo")
    found = observatory.intake.history.find(HistoryQuery(seed_id="run/site/1"))
    assert [entry.name for _, entry in found] == ["seed_stage", "field_report"]
    assert found[0][1].description == "TRAINING to BLENDING: G2 passed"
    assert dict(found[0][1].attributes)["step"] == "7"


async def test_a_query_goes_on_where_it_stopped_and_filters(observatory: Observatory) -> None:
    for number in range(5):
        await observatory.intake.take(moved(number), "tolaria")
    first = observatory.intake.history.find(HistoryQuery(limit=2))
    rest = observatory.intake.history.find(HistoryQuery(after=first[-1][0]))
    assert len(first) == 2
    assert len(rest) == 3
    assert not observatory.intake.history.find(HistoryQuery(training_run_id="another run"))
    assert not observatory.intake.history.find(HistoryQuery(name="seed_stage' OR '1'='1"))


async def test_a_packet_shows_under_the_names_that_dashboards_know(observatory: Observatory) -> None:
    packet = (
        TelemetryBuilder("kasmina")
        .metric("kasmina.seeds.active", 2.0)
        .event("gate_failure", leyline.TELEMETRY_LEVEL_CRITICAL, "G2 failed", seed_id="run/site/1")
        .build(leyline.MESSAGE_PRIORITY_CRITICAL)
    )
    await observatory.intake.take(packet, "kasmina")
    assert 'kasmina_seeds_active{source="kasmina"} 2.0' in observatory.page()
    ((_, entry),) = observatory.intake.history.find(HistoryQuery(name="gate_failure"))
    assert (entry.level, entry.seed_id) == (leyline.TELEMETRY_LEVEL_CRITICAL, "run/site/1")


def test_an_unknown_metric_and_one_series_too_many_are_refused_and_counted() -> None:
    board = MetricBoard(max_series=1)
    assert board.put("kasmina.seeds.active", "kasmina", {}, 1.0, NOW)
    assert not board.put("kasmina.seeds.active", "another", {}, 1.0, NOW)
    assert not board.put("kasmina.no.such.metric", "kasmina", {}, 1.0, NOW)
    assert board.refused == 2
    assert board.put("kasmina.seeds.active", "kasmina", {}, 5.0, NOW)
    assert [sample.value for sample in board.samples()] == [5.0]


async def test_whoever_waits_is_woken_by_the_next_entry(observatory: Observatory) -> None:
    news = observatory.intake.next_news()
    await observatory.intake.take(moved(1), "tolaria")
    await asyncio.wait_for(news.wait(), 5)


def test_progress_is_no_history() -> None:
    progress = leyline.RunEvent(kind=leyline.RUN_EVENT_KIND_PROGRESS, progress=leyline.RunProgress(step=1))
    assert not list(entries_of(progress, "tolaria"))


@pytest.mark.parametrize(
    "kind", [name for name in list(leyline.RunEventKind.keys()) if not name.endswith("UNSPECIFIED")]
)
def test_every_kind_of_run_event_can_be_told(kind: str) -> None:
    word = kind.removeprefix("RUN_EVENT_KIND_").lower()
    field = {"seed_stage": "seed"}.get(word, word)
    event = leyline.RunEvent(event_id="e", kind=leyline.RunEventKind.Value(kind), occurred_at=to_timestamp(NOW))
    getattr(event, field).SetInParent()
    told = list(entries_of(event, "tolaria"))
    assert [entry.name for entry in told] == ([] if word == "progress" else [word])


def test_the_metric_of_field_reports_keeps_its_name() -> None:
    assert definition_of("nissa.field_reports_total").prometheus_name == "esper_field_reports_total"
