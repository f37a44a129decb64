"""Append-only journals: `JournalWriter` writes, `read_journal` reads; see `format.py` for the bytes."""

from esper_core.journal.format import MAX_PAYLOAD_BYTES, Record, Span
from esper_core.journal.reader import JournalContents, iterate, read_journal
from esper_core.journal.writer import JournalWriter, RewriteReport, SyncPolicy

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "JournalContents",
    "JournalWriter",
    "Record",
    "RewriteReport",
    "Span",
    "SyncPolicy",
    "iterate",
    "read_journal",
]
