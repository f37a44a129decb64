"""An embedded SQLite database: durable transactions that any thread may make."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from esper_core.errors import StorageError

Synchronous = Literal["FULL", "NORMAL"]


class Database:
    """A SQLite file in WAL mode.

    Parameters
    ----------
    path : Path
        The file; created when absent.
    schema : str
        Statements that make its tables where they are missing.
    synchronous : str
        FULL makes every commit durable before it returns; NORMAL survives a killed process, but may lose the last
        commits to a power cut.
    what : str
        What it is called in errors.

    Raises
    ------
    StorageError
        If it cannot be opened.
    """

    def __init__(self, path: Path, schema: str, *, synchronous: Synchronous, what: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._what = what
        with self.transaction() as db:
            db.executescript(schema)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that is committed at the end of the block and rolled back by an exception.

        Raises
        ------
        StorageError
            If the database cannot be used.
        """
        # One connection a transaction: callers come from worker threads, and SQLite's connections stay in theirs.
        try:
            db = sqlite3.connect(self._path, timeout=10.0)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute(f"PRAGMA synchronous={self._synchronous}")
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise StorageError(f"The {self._what} {self._path} cannot be used: {error}.") from error
