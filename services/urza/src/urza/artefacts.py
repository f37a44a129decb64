"""A content-addressed store: the name of an artefact is the SHA-256 of its bytes, so it can never change unnoticed."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from esper_core.errors import IntegrityError, NotFoundError, StorageError, ValidationError
from esper_core.files import ensure_directory, fsync_directory

CHUNK_BYTES: Final = 1024 * 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ArtefactStore:
    """Immutable artefacts below one folder.

    Parameters
    ----------
    root : Path
        Folder; created when absent.
    max_bytes : int
        Largest artefact that is taken.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = ensure_directory(root)
        self._max_bytes = max_bytes

    def put(self, chunks: Iterable[bytes], digest: str) -> int:
        """Store an artefact and return its size in bytes; storing the same one again is harmless.

        Raises
        ------
        IntegrityError
            If the bytes do not have the digest; nothing is stored then.
        ValidationError
            If the digest is malformed or the artefact too large.
        StorageError
            If writing fails; DiskFullError when the disk is full.
        """
        target = self._path(digest)
        ensure_directory(target.parent)
        scratch = target.with_name(f".{digest}.{uuid.uuid4().hex}.part")
        try:
            size = self._write(scratch, chunks, digest)
            os.replace(scratch, target)
            fsync_directory(target.parent)
        except OSError as error:
            raise StorageError.from_os_error(error, target, "store the artefact at") from error
        finally:
            scratch.unlink(missing_ok=True)
        return size

    def open(self, digest: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, in chunks of at most 1 MiB.

        Raises
        ------
        NotFoundError
            If there is no such artefact.
        ValidationError
            If the digest is malformed or the offset lies outside.
        """
        path = self._path(digest)
        if not path.is_file():
            raise NotFoundError(f"No artefact {digest} is stored. Ask for the kernel to be prefetched again.")
        if not 0 <= offset <= path.stat().st_size:
            raise ValidationError(
                f"offset {offset} lies outside of the artefact.", field="offset", allowed=f"0..{path.stat().st_size}"
            )
        return _chunks(path, offset)

    def verify(self, digest: str) -> None:
        """Read an artefact through.

        Raises
        ------
        IntegrityError
            If its bytes no longer have its digest.
        """
        actual = hashlib.sha256()
        for chunk in self.open(digest):
            actual.update(chunk)
        if actual.hexdigest() != digest:
            raise IntegrityError(f"The stored artefact {digest} has changed on disk; it is quarantined.")

    def _write(self, scratch: Path, chunks: Iterable[bytes], digest: str) -> int:
        actual, size = hashlib.sha256(), 0
        with scratch.open("xb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise ValidationError(
                        "The artefact is too large.", field="chunk", allowed=f"at most {self._max_bytes} bytes in all"
                    )
                actual.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if actual.hexdigest() != digest:
            raise IntegrityError(
                f"The bytes have the digest {actual.hexdigest()}, but {digest} was announced. Send them again."
            )
        return size

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValidationError(
                f"{digest!r} is no digest.", field="weights_digest", allowed="64 lower-case hex digits (SHA-256)"
            )
        return self._root / digest[:2] / digest


def _chunks(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
