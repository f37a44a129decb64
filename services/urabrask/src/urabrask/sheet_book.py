"""Which sheet belongs to which kernel: Urza tells only the last one of a blueprint, this journal keeps the others."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

from esper_core import leyline
from esper_core.journal import JournalWriter, read_journal
from esper_core.logs import get_logger

_log = get_logger("sheets")


class SheetBook:
    """The last sheet of every kernel that was tried to the end.

    Losing the file costs new trials and nothing else.

    Parameters
    ----------
    path : Path
        The journal; made when absent.
    """

    def __init__(self, path: Path) -> None:
        self._journal = JournalWriter(path)
        self._sheets: dict[str, leyline.Bsds] = {}
        contents = read_journal(path)
        if contents.describe_damage():
            _log.warning("sheet journal damaged", reason=contents.describe_damage())
        for payload in contents.payloads:
            self._read(payload)
        if len(contents.payloads) > 2 * len(self._sheets):
            self._journal.rewrite(lambda _: [sheet.SerializeToString() for sheet in self._sheets.values()])

    def find(self, kernel_digest: str) -> leyline.Bsds | None:
        """Return the sheet of a kernel."""
        return self._sheets.get(kernel_digest)

    def put(self, sheet: leyline.Bsds) -> None:
        """Keep a sheet, durably."""
        self._journal.append(sheet.SerializeToString())
        self._sheets[sheet.kernel_digest] = sheet

    def close(self) -> None:
        """Let go of the file."""
        self._journal.close()

    def _read(self, payload: bytes) -> None:
        try:
            sheet = leyline.Bsds.FromString(payload)
        except DecodeError as error:
            _log.warning("a sheet cannot be read", reason=str(error))
            return
        self._sheets[sheet.kernel_digest] = sheet
