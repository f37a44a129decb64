"""Checks who signed a safety data sheet."""

from __future__ import annotations

from esper_core import leyline
from esper_core.security import Keyring, MessageVerifier


class SheetVerifier:
    """Verifies sheets; a sheet is a lasting record, so its age does not matter and reading it again is no replay.

    Parameters
    ----------
    keyring : Keyring
        Keys that may have signed.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._verifier = MessageVerifier(keyring, "bsds", ledger=None, freshness=None)

    def problem(self, sheet: leyline.Bsds) -> str:
        """Return what is wrong with a sheet, as a sentence; empty when nothing is."""
        leyline.validate(sheet)
        verification = self._verifier.verify(sheet)
        return "" if verification.accepted else f"The safety data sheet is refused: {verification.explanation}"
