"""Journals and the way to the bus: a bad record costs itself only, a report is never lost and never doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.clocks import to_timestamp
from esper_core.errors import ResourceExhaustedError, UnavailableError
from esper_core.ids import new_command_id
from esper_core.journal import JournalWriter, read_journal
from support.tamiyo_parts import RUN, Bench
from support.tamiyo_run import FakeRun
from support.waiting import await_until
from tamiyo.advisor import Advisor
from tamiyo.explain import summary_of
from tamiyo.group_commit import GroupCommit
from tamiyo.journal import DecisionIndex, DecisionRecord, encode, open_decisions
from tamiyo.reporting.ledger import encode_report, open_reports
from tamiyo.reporting.publisher import ReportPublisher, RetryRules
from tamiyo.reporting.reports import report_id


def decided(step: int = 80) -> DecisionRecord:
    """Return a command with its inputs."""
    outcome = Bench().controller.decide(FakeRun().packet(step, context=True))
    return DecisionRecord(outcome.decision, outcome.inputs)


def report(bench: Bench, command_id: str = "") -> leyline.FieldReport:
    """Return a valid report."""
    name = command_id or new_command_id()
    return leyline.FieldReport(
        version=1,
        report_id=report_id(name),
        command_id=name,
        training_run_id=RUN,
        outcome=leyline.FIELD_REPORT_OUTCOME_NEUTRAL,
        issued_at=to_timestamp(bench.clock.wall()),
    )


@asynccontextmanager
async def committing(path: Path) -> AsyncIterator[GroupCommit]:
    """Run a group commit on a journal."""
    commits = GroupCommit(JournalWriter(path, sync="manual"))
    task = asyncio.create_task(commits.run())
    try:
        yield commits
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await commits.close()


@pytest.mark.req("TAM-8")
def test_a_damaged_record_costs_itself_only(tmp_path: Path) -> None:
    path, records = tmp_path / "decisions.journal", [decided(), decided(), decided()]
    told: list[str] = []
    with JournalWriter(path) as writer:
        places = [writer.append(encode(record)) for record in records]
    data = bytearray(path.read_bytes())
    data[places[1].offset + 40] ^= 0xFF
    path.write_bytes(bytes(data))
    writer, found = open_decisions(path, 100, strict=True, tell=told.append)
    writer.close()
    assert [one.decision.decision_id for one in found] == [records[i].decision.decision_id for i in (0, 2)]
    assert "Skipped" in told[0]


@pytest.mark.req("TAM-8")
def test_a_record_that_breaks_the_contract_is_skipped_and_told(tmp_path: Path) -> None:
    path = tmp_path / "decisions.journal"
    told: list[str] = []
    good, bad = decided(), decided()
    bad.decision.version = 7
    with JournalWriter(path) as writer:
        for payload in (encode(bad), b"\x01", encode(good)):
            writer.append(payload)
    strict, found = open_decisions(path, 100, strict=True, tell=told.append)
    strict.close()
    assert ([one.decision.decision_id for one in found], len(told)) == ([good.decision.decision_id], 2)
    lenient, found = open_decisions(path, 100, strict=False, tell=told.append)
    lenient.close()
    assert len(found) == 2


@pytest.mark.req("TAM-9")
def test_a_report_without_issued_at_is_refused_even_leniently(tmp_path: Path) -> None:
    path, bench = tmp_path / "reports.journal", Bench()
    told: list[str] = []
    timeless, good = report(bench), report(bench)
    timeless.ClearField("issued_at")
    with JournalWriter(path) as writer:
        writer.append(encode_report(timeless))
        writer.append(encode_report(good))
    writer, ledger, skipped = open_reports(path, 100, strict=False, tell=told.append)
    writer.close()
    assert ([one.report_id for one in ledger.newest("", 10)], skipped) == ([good.report_id], 1)
    assert "no issued_at" in told[0]


def test_compaction_keeps_commands_and_what_the_bus_does_not_have(tmp_path: Path) -> None:
    bench, path = Bench(), tmp_path / "reports.journal"
    reports = [report(bench) for _ in range(12)]
    with JournalWriter(path) as writer:
        for number, one in enumerate(reports):
            writer.append(encode_report(one))
            if number:
                writer.append(b"A" + one.report_id.encode())
    writer, ledger, _ = open_reports(path, 2, strict=True, tell=lambda sentence: None)
    writer.close()
    kept = [one.report_id for one in ledger.newest("", 100)]
    assert kept == [reports[11].report_id, reports[10].report_id, reports[0].report_id]
    assert [one.report_id for one in ledger.unacknowledged()] == [reports[0].report_id]
    assert len(read_journal(path).records) == 5


async def test_many_appends_share_one_commit(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    async with committing(path) as commits:
        await asyncio.gather(*(commits.put(f"{number}".encode()) for number in range(50)))
        assert len(read_journal(path).records) == 50


async def test_a_full_queue_is_refused(tmp_path: Path) -> None:
    commits = GroupCommit(JournalWriter(tmp_path / "x.journal", sync="manual"), limit=2)
    for _ in range(2):
        commits.put(b"x")
    with pytest.raises(ResourceExhaustedError, match="wait for the disk"):
        commits.put(b"x")
    await commits.close()


async def test_a_command_leaves_only_once_it_is_on_disk(tmp_path: Path) -> None:
    bench, run, path = Bench(), FakeRun(), tmp_path / "decisions.journal"
    async with committing(path) as commits:
        advisor = Advisor(bench.controller, commits, DecisionIndex(10), bench.telemetry, clock=bench.clock)
        outcome = await advisor.answer(run.packet(80, context=True))
        assert outcome.command is not None
        assert len(read_journal(path).records) == 1


async def test_a_command_that_cannot_be_written_is_a_failure_and_is_forgotten(tmp_path: Path) -> None:
    bench, run = Bench(), FakeRun()
    writer = JournalWriter(tmp_path / "decisions.journal", sync="manual")
    writer.close()
    commits = GroupCommit(writer)
    task = asyncio.create_task(commits.run())
    advisor = Advisor(bench.controller, commits, DecisionIndex(10), bench.telemetry, clock=bench.clock)
    outcome = await advisor.answer(run.packet(80, context=True))
    task.cancel()
    assert outcome.decision.WhichOneof("outcome") == "failure"
    assert "closed" in outcome.decision.failure.message
    assert outcome.memory is not None
    assert not outcome.memory.sent


async def test_waits_are_journalled_when_something_changes(tmp_path: Path) -> None:
    bench, run, path = Bench(), FakeRun(), tmp_path / "decisions.journal"
    async with committing(path) as commits:
        advisor = Advisor(bench.controller, commits, DecisionIndex(10), bench.telemetry, clock=bench.clock)
        for step in range(1, 30):
            await advisor.answer(run.packet(step, context=step == 1))
        await commits.flush()
        assert len(read_journal(path).records) == 1
        await advisor.answer(run.packet(60))
        await commits.flush()
        assert len(read_journal(path).records) == 2


class Bus:
    """Takes reports, but the first `away` times it is away."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.tries = 0
        self.got: list[str] = []

    async def __call__(self, one: leyline.FieldReport) -> None:
        """Take a report."""
        self.tries += 1
        if self.tries <= self.away:
            raise UnavailableError("Redis is away.")
        self.got.append(one.report_id)


FAST = RetryRules(first_s=0.001, factor=2.0, retries=3)


@asynccontextmanager
async def publishing(
    path: Path, bench: Bench, publish: Callable[[leyline.FieldReport], Awaitable[object]]
) -> AsyncIterator[ReportPublisher]:
    """Run a publisher as the service does."""
    writer, ledger, _ = open_reports(path, 100, strict=True, tell=lambda sentence: None)
    commits = GroupCommit(writer)
    publisher = ReportPublisher(ledger, commits, publish, bench.telemetry, FAST)
    publisher.republish()
    tasks = [asyncio.create_task(commits.run()), asyncio.create_task(publisher.run())]
    try:
        yield publisher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await commits.close()


@pytest.mark.req("TAM-24")
async def test_a_report_is_tried_again_until_the_bus_takes_it(tmp_path: Path) -> None:
    bench, bus = Bench(), Bus(away=2)
    async with publishing(tmp_path / "r.journal", bench, bus) as publisher:
        publisher.take([report(bench)])
        await await_until(lambda: len(bus.got) == 1)
    assert bench.value("tamiyo_field_reports_retries_total") == 2.0
    assert bench.value("tamiyo_field_reports_published_total") == 1.0


@pytest.mark.req("TAM-24")
async def test_a_report_leaves_the_queue_after_three_retries_but_never_the_journal(tmp_path: Path) -> None:
    bench, bus, one = Bench(), Bus(away=4), report(Bench())
    async with publishing(tmp_path / "r.journal", bench, bus) as publisher:
        publisher.take([one])
        await await_until(lambda: "field_report_dropped" in bench.sink.names())
    assert (bus.got, bus.tries) == ([], 4)
    async with publishing(tmp_path / "r.journal", bench, bus):
        await await_until(lambda: bus.got == [one.report_id])
    async with publishing(tmp_path / "r.journal", bench, bus) as publisher:
        assert publisher.backlog == 0


@pytest.mark.req("TAM-24")
async def test_what_was_given_up_goes_out_with_the_next_report(tmp_path: Path) -> None:
    bench, bus = Bench(), Bus(away=4)
    first, second = report(bench), report(bench)
    async with publishing(tmp_path / "r.journal", bench, bus) as publisher:
        publisher.take([first])
        await await_until(lambda: "field_report_dropped" in bench.sink.names())
        publisher.take([second])
        await await_until(lambda: set(bus.got) == {first.report_id, second.report_id})


@pytest.mark.req("TAM-24")
async def test_the_same_report_is_never_published_twice(tmp_path: Path) -> None:
    bench, bus, one = Bench(), Bus(), report(Bench())
    async with publishing(tmp_path / "r.journal", bench, bus) as publisher:
        publisher.take([one, one])
        publisher.take([one])
        await await_until(lambda: bool(bus.got) and publisher.backlog == 0)
    assert bus.got == [one.report_id]


def test_back_off_doubles() -> None:
    rules = RetryRules()
    assert [rules.wait_s(failures) for failures in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_a_summary_tells_why_when_where_what_else_and_what_it_was_worth() -> None:
    record, bench = decided(), Bench()
    command = record.decision.command
    open_text = summary_of(record, None)
    for part in ("At step 80", "GERMINATE of mlp_residual.v1", "site stem", "schedule-1.0.0", "still open"):
        assert part in open_text
    assert "preferred" in open_text
    closed_text = summary_of(record, report(bench, command.command_id))
    assert "worth NEUTRAL" in closed_text
