"""What Tamiyo keeps on disk, opened and played back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.logs import get_logger
from tamiyo.group_commit import GroupCommit
from tamiyo.journal import DecisionIndex, open_decisions
from tamiyo.reporting.book import ReportBook
from tamiyo.reporting.ledger import ReportLedger, open_reports
from tamiyo.restoring import restore
from tamiyo.runs import RunTable
from tamiyo.settings import TamiyoSettings
from tamiyo.telemetry import ERROR, Telemetry

_log = get_logger("journal")


@dataclass(frozen=True, slots=True)
class Store:
    """Both journals with what was in them.

    Attributes
    ----------
    due : list of FieldReport
        Reports whose window closed in what was played back, not written yet.
    """

    decision_commits: GroupCommit
    report_commits: GroupCommit
    index: DecisionIndex
    ledger: ReportLedger
    book: ReportBook
    due: list[leyline.FieldReport]

    @classmethod
    def open(
        cls, folder: Path, settings: TamiyoSettings, runs: RunTable, telemetry: Telemetry, clock: Clock = SYSTEM_CLOCK
    ) -> Store:
        """Open the journals under a folder and bring memories, windows and links back.

        Raises
        ------
        StorageError
            If a file cannot be read or opened.
        StateConflictError
            If another process has one open.
        """

        def damaged(sentence: str) -> None:
            _log.warning("journal damaged", reason=sentence)
            telemetry.event("journal_damaged", ERROR, sentence)

        strict = settings.wal_strict_validation
        decisions, records = open_decisions(
            folder / "decisions.journal", settings.decisions_kept, strict=strict, tell=damaged
        )
        reports, ledger, skipped = open_reports(
            folder / "reports.journal", settings.reports_kept, strict=strict, tell=damaged
        )
        telemetry.count("tamiyo.field_reports.load_errors_total", skipped)
        index, book = DecisionIndex(settings.decisions_kept), ReportBook(settings.window_rules(), clock)
        book.mark_reported(ledger.command_ids())
        due = restore(records, runs, index, book, clock)
        return cls(GroupCommit(decisions), GroupCommit(reports), index, ledger, book, due)

    async def close(self) -> None:
        """Write what waits and let go of the files."""
        await self.decision_commits.close()
        await self.report_commits.close()
