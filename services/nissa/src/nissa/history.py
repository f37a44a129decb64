"""The history: every entry once, in the order of arrival, in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from esper_core import leyline
from esper_core.database import Database
from nissa.entries import Entry

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    training_run_id TEXT NOT NULL,
    seed_id TEXT NOT NULL,
    level INTEGER NOT NULL,
    description TEXT NOT NULL,
    occurred_at TEXT NOT NULL,
    attributes TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_by_run ON entries (training_run_id, number);
CREATE INDEX IF NOT EXISTS entries_by_seed ON entries (seed_id, number);
"""
_COLUMNS: Final = (
    "number, event_id, name, source, training_run_id, seed_id, level, description, occurred_at, attributes"
)
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What to look for; empty text means anything.

    Parameters
    ----------
    training_run_id, seed_id, name, source : str
        Exact values.
    since : datetime or None
        Only entries that occurred later.
    after : int
        Only entries with a higher number.
    limit : int
        Most entries; 0 means 100.
    newest_first : bool
        Order.
    """

    training_run_id: str = ""
    seed_id: str = ""
    name: str = ""
    source: str = ""
    since: datetime | None = None
    after: int = 0
    limit: int = 0
    newest_first: bool = False


class History:
    """The history store; an entry is durable before `add` returns.

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
        self._database = Database(path, _SCHEMA, synchronous="NORMAL", what="history")

    def add(self, entries: Iterable[Entry]) -> list[Entry]:
        """Store entries and return those that are new."""
        with self._database.transaction() as db:
            return [entry for entry in entries if self._insert(db, entry)]

    def find(self, query: HistoryQuery) -> list[tuple[int, Entry]]:
        """Return numbered entries that fit, in the order asked for."""
        conditions, values = _conditions(query)
        order = "DESC" if query.newest_first else "ASC"
        limit = min(query.limit or DEFAULT_LIMIT, MAX_LIMIT)
        # Conditions are fixed texts from this module; only their values come from outside, as parameters.
        statement = f"SELECT {_COLUMNS} FROM entries WHERE {conditions} ORDER BY number {order} LIMIT ?"
        with self._database.transaction() as db:
            rows = db.execute(statement, (*values, limit)).fetchall()
        return [(int(row[0]), _entry(row)) for row in rows]

    def count(self) -> int:
        """Return how many entries there are."""
        with self._database.transaction() as db:
            return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])

    def count_by(self, name: str, attribute: str) -> dict[str, int]:
        """Count the entries of a name by the value of one attribute."""
        statement = "SELECT json_extract(attributes, '$.' || ?), count(*) FROM entries WHERE name = ? GROUP BY 1"
        with self._database.transaction() as db:
            return {str(value): int(count) for value, count in db.execute(statement, (attribute, name))}

    def _insert(self, db: sqlite3.Connection, entry: Entry) -> bool:
        row = (
            entry.event_id,
            entry.name,
            entry.source,
            entry.training_run_id,
            entry.seed_id,
            entry.level,
            entry.description,
            entry.occurred_at.isoformat(timespec="microseconds"),
            json.dumps(dict(entry.attributes)),
        )
        statement = (
            "INSERT OR IGNORE INTO entries (event_id, name, source, training_run_id, seed_id, level, description, "
            "occurred_at, attributes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        return db.execute(statement, row).rowcount == 1


def _conditions(query: HistoryQuery) -> tuple[str, list[Any]]:
    texts: list[str] = ["number > ?"]
    values: list[Any] = [query.after]
    for column in ("training_run_id", "seed_id", "name", "source"):
        wanted = getattr(query, column)
        if wanted:
            texts.append(f"{column} = ?")
            values.append(wanted)
    if query.since is not None:
        texts.append("occurred_at > ?")
        values.append(query.since.isoformat(timespec="microseconds"))
    return " AND ".join(texts), values


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(
        event_id=row[1],
        name=row[2],
        source=row[3],
        training_run_id=row[4],
        seed_id=row[5],
        level=leyline.TelemetryLevel.ValueType(row[6]),
        description=row[7],
        occurred_at=datetime.fromisoformat(row[8]),
        attributes=tuple(json.loads(row[9]).items()),
    )
