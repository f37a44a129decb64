"""The journal of field reports: `R` and a FieldReport, or `A` and the id of a report that the bus has acknowledged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from esper_core import leyline
from esper_core.errors import EsperError, IntegrityError
from esper_core.ids import parse_command_id
from esper_core.journal import JournalWriter, Record, read_journal
from tamiyo.reporting.reports import report_id

REPORT: Final = b"R"
ACKNOWLEDGED: Final = b"A"
Tell = Callable[[str], None]


class ReportLedger:
    """Every report by id, oldest first, and which of them the bus has."""

    def __init__(self) -> None:
        self._reports: OrderedDict[str, leyline.FieldReport] = OrderedDict()
        self._acknowledged: set[str] = set()

    def add(self, report: leyline.FieldReport) -> bool:
        """Take up a report; False when there is one of that id already."""
        if report.report_id in self._reports:
            return False
        self._reports[report.report_id] = report
        return True

    def acknowledge(self, name: str) -> None:
        """Note that the bus has a report."""
        self._acknowledged.add(name)

    def unacknowledged(self) -> list[leyline.FieldReport]:
        """Return the reports that the bus does not have for sure, oldest first."""
        return [report for name, report in self._reports.items() if name not in self._acknowledged]

    def of_command(self, command_id: str) -> leyline.FieldReport | None:
        """Return the report of a command, None while its window is open."""
        return self._reports.get(report_id(command_id))

    def newest(self, run_id: str, limit: int) -> list[leyline.FieldReport]:
        """Return reports, newest first; an empty run means all runs."""
        found = [one for one in reversed(self._reports.values()) if not run_id or one.training_run_id == run_id]
        return found[:limit]

    def command_ids(self) -> list[str]:
        """Return the commands that have their report."""
        return [report.command_id for report in self._reports.values()]


def encode_report(report: leyline.FieldReport) -> bytes:
    """Return the bytes of a report's record."""
    return REPORT + report.SerializeToString()


def encode_acknowledgement(name: str) -> bytes:
    """Return the bytes of an acknowledgement's record."""
    return ACKNOWLEDGED + name.encode()


def decode_report(payload: bytes, *, strict: bool = True) -> leyline.FieldReport:
    """Read a report's record.

    Raises
    ------
    IntegrityError
        If it is no report, has no issued_at, or, with `strict`, breaks the contract.
    """
    try:
        report = leyline.FieldReport.FromString(payload[len(REPORT) :])
    except DecodeError as error:
        raise IntegrityError("A record of the report journal cannot be read; it is skipped.") from error
    if not report.HasField("issued_at"):
        raise IntegrityError(f"Report {report.report_id!r} has no issued_at; it is skipped.")
    if strict:
        _check(report)
    return report


def _check(report: leyline.FieldReport) -> None:
    try:
        leyline.validate(report)
        parse_command_id(report.command_id)
    except EsperError as error:
        raise IntegrityError(f"A report breaks the contract and is skipped: {error.message}") from error
    if report.report_id != report_id(report.command_id):
        raise IntegrityError(f"Report {report.report_id!r} does not belong to command {report.command_id}; skipped.")


def open_reports(path: Path, keep: int, *, strict: bool, tell: Tell) -> tuple[JournalWriter, ReportLedger, int]:
    """Open the journal and read its good records.

    When more than twice `keep` reports lie there it is compacted to the newest; those not acknowledged always stay.

    Returns
    -------
    tuple
        The writer, the ledger, and the number of records that were skipped.
    """
    contents = read_journal(path)
    skipped = len(contents.damaged) + (1 if contents.tail else 0)
    if contents.damaged_bytes:
        tell(f"{path.name}: {contents.describe_damage()}")
    writer = JournalWriter(path, sync="manual")
    ledger, bad = _read(contents.records, strict, tell, path.name)
    if len(contents.records) > 4 * keep:
        ledger = _compact(ledger, keep)
        writer.rewrite(lambda before: _payloads(ledger))
    return writer, ledger, skipped + bad


def _read(records: Sequence[Record], strict: bool, tell: Tell, name: str) -> tuple[ReportLedger, int]:
    ledger, bad = ReportLedger(), 0
    for record in records:
        kind = record.payload[:1]
        try:
            if kind == REPORT:
                ledger.add(decode_report(record.payload, strict=strict))
            elif kind == ACKNOWLEDGED:
                ledger.acknowledge(record.payload[1:].decode(errors="replace"))
            else:
                raise IntegrityError("A record of an unknown kind is skipped.")
        except IntegrityError as error:
            bad += 1
            tell(f"{name}, offset {record.offset}: {error.message}")
    return ledger, bad


def _compact(ledger: ReportLedger, keep: int) -> ReportLedger:
    waiting = {report.report_id for report in ledger.unacknowledged()}
    kept = ledger.newest("", keep)
    names = waiting | {report.report_id for report in kept}
    compacted = ReportLedger()
    for report in reversed(ledger.newest("", 10**9)):
        if report.report_id in names:
            compacted.add(report)
            if report.report_id not in waiting:
                compacted.acknowledge(report.report_id)
    return compacted


def _payloads(ledger: ReportLedger) -> list[bytes]:
    waiting = {report.report_id for report in ledger.unacknowledged()}
    payloads = []
    for report in reversed(ledger.newest("", 10**9)):
        payloads.append(encode_report(report))
        if report.report_id not in waiting:
            payloads.append(encode_acknowledgement(report.report_id))
    return payloads
