"""The replay store: every field report exactly once, however often it is delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from esper_core import leyline
from esper_core.clocks import from_timestamp
from esper_core.database import Database
from esper_core.errors import ValidationError

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reports (
    report_id TEXT PRIMARY KEY,
    command_id TEXT NOT NULL,
    training_run_id TEXT NOT NULL,
    issued_at TEXT NOT NULL,
    report BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS reports_by_time ON reports (issued_at);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
DUPLICATES: Final = "duplicates"


class ReplayStore:
    """Field reports in SQLite, keyed by report id.

    A report is durable before `add` returns, so that it may be acknowledged then.

    Parameters
    ----------
    path : Path
        The database file; created when absent.

    Raises
    ------
    StorageError
        If the database cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, synchronous="FULL", what="replay store")

    def add(self, report: leyline.FieldReport) -> bool:
        """Store a report; return False when it was there already.

        Raises
        ------
        ValidationError
            If its id, command, run or time is missing.
        StorageError
            If it cannot be written.
        """
        _require_identity(report)
        row = (
            report.report_id,
            report.command_id,
            report.training_run_id,
            from_timestamp(report.issued_at).isoformat(),
            report.SerializeToString(deterministic=True),
        )
        with self._database.transaction() as db:
            added = db.execute("INSERT OR IGNORE INTO reports VALUES (?, ?, ?, ?, ?)", row).rowcount == 1
            if not added:
                db.execute(
                    "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
                    (DUPLICATES,),
                )
        return added

    def count(self) -> int:
        """Return how many reports are stored."""
        with self._database.transaction() as db:
            return int(db.execute("SELECT count(*) FROM reports").fetchone()[0])

    def duplicates(self) -> int:
        """Return how many deliveries were of reports that were there already."""
        with self._database.transaction() as db:
            row = db.execute("SELECT value FROM counters WHERE name = ?", (DUPLICATES,)).fetchone()
        return int(row[0]) if row is not None else 0

    def newest(self, limit: int) -> list[leyline.FieldReport]:
        """Return at most `limit` reports, newest first."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT report FROM reports ORDER BY issued_at DESC, report_id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [leyline.FieldReport.FromString(row[0]) for row in rows]


def _require_identity(report: leyline.FieldReport) -> None:
    leyline.require_version(report)
    for field in ("report_id", "command_id", "training_run_id"):
        if not getattr(report, field):
            raise ValidationError(f"A field report without {field} is refused.", field=field, allowed="a non-empty id")
    if not report.HasField("issued_at"):
        raise ValidationError("A field report without issued_at is refused.", field="issued_at", allowed="a time")
