"""Data files that ship with the package, checked before they are parsed."""

from __future__ import annotations

import hashlib
import io
import lzma
from importlib import resources
from typing import Final

import numpy as np

from esper_core.errors import IntegrityError

LETTER_FILE: Final = "letter.npy.xz"
LETTER_ROWS: Final = 20_000
LETTER_COLUMNS: Final = 17
LETTER_SHA256: Final = "49138a46bf58e693c8579ac82f0e5abdf530c628e5f1457a625c86d8e1c90e3a"


def check_digest(content: bytes, expected: str, what: str, remedy: str) -> None:
    """Compare the SHA-256 of some bytes with the one this version was made for.

    Raises
    ------
    IntegrityError
        If they differ; the sentence ends with the remedy.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise IntegrityError(
            f"{what} has SHA-256 {found[:12]}… instead of {expected[:12]}…. {remedy}",
            details={"expected_sha256": expected, "found_sha256": found},
        )


def parse_letter_file(content: bytes) -> np.ndarray:
    """Check and unpack the Letter file.

    Returns
    -------
    np.ndarray
        uint8 of shape (20000, 17): 16 features from 0 to 15, then the class from 0 (A) to 25 (Z).

    Raises
    ------
    IntegrityError
        If the bytes aren't those that were shipped.
    """
    check_digest(content, LETTER_SHA256, f"The data file {LETTER_FILE}", "Reinstall esper-tasks.")
    table: np.ndarray = np.load(io.BytesIO(lzma.decompress(content)), allow_pickle=False)
    return table


def read_letter_table() -> np.ndarray:
    """Read the Letter data shipped with the package; see `parse_letter_file`."""
    return parse_letter_file(resources.files("esper_tasks").joinpath("data", LETTER_FILE).read_bytes())
