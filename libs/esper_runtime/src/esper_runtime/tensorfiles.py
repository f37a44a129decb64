"""Safetensors files: written whole or not at all, with the operating system's reason when that fails."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from esper_core.errors import EsperError, StorageError
from esper_core.files import fsync_directory


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_bytes(path: Path) -> int:
    """Return the bytes of all tensors in a safetensors file, from its size and the length of its header."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a safetensors file durably; after a crash either the old or the new one is there, whole.

    Raises
    ------
    StorageError
        If writing fails; DiskFullError when the disk is full. The old file is untouched then.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staging)
        sync_file(staging)
        os.replace(staging, path)
        fsync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        staging.unlink(missing_ok=True)
        raise storage_error(error, path) from error


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def storage_error(error: OSError | SafetensorError, path: Path) -> EsperError:
    """Say why writing failed; safetensors hides the error number of the system in its message."""
    hidden = re.search(r"os error (\d+)", str(error))
    if hidden is not None:
        number = int(hidden.group(1))
        error = OSError(number, os.strerror(number))
    if isinstance(error, OSError):
        return StorageError.from_os_error(error, path, "write")
    return StorageError(f"Cannot write {path}: {error}.", details={"path": str(path)})
