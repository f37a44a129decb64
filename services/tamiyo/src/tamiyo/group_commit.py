"""Group commit: many callers append to one journal, one task writes and syncs for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from esper_core.errors import EsperError, ResourceExhaustedError, StorageError
from esper_core.journal import JournalWriter

QUEUE_SIZE: Final = 8192


class GroupCommit:
    """The queue in front of a journal.

    Parameters
    ----------
    writer : JournalWriter
        Opened with the policy `manual`; closed by `close`.
    limit : int
        Most records that wait.
    """

    def __init__(self, writer: JournalWriter, limit: int = QUEUE_SIZE) -> None:
        self._writer = writer
        self._limit = limit
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._rung = asyncio.Event()
        self._writing = asyncio.Lock()

    def put(self, payload: bytes) -> asyncio.Future[None]:
        """Queue a record; the future is done once it is on disk, or carries why it is not.

        Raises
        ------
        ResourceExhaustedError
            If too many records wait for the disk.
        """
        if len(self._waiting) >= self._limit:
            raise ResourceExhaustedError(
                f"{self._limit} records wait for the disk under {self._writer.path.parent}. Look why it is slow."
            )
        written = asyncio.get_running_loop().create_future()
        written.add_done_callback(_look_at)
        self._waiting.append((payload, written))
        self._rung.set()
        return written

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._rung.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write everything that waits."""
        async with self._writing:
            self._rung.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            if not batch:
                return
            await _to_the_end(asyncio.create_task(self._write_batch(batch)))

    async def _write_batch(self, batch: list[tuple[bytes, asyncio.Future[None]]]) -> None:
        try:
            await asyncio.to_thread(self._write, [payload for payload, _ in batch])
        except EsperError as error:
            _settle(batch, error)
        else:
            _settle(batch, None)

    async def close(self) -> None:
        """Write what waits and let go of the file."""
        await self.flush()
        await asyncio.to_thread(self._writer.close)

    def _write(self, payloads: list[bytes]) -> None:
        try:
            for payload in payloads:
                self._writer.append(payload)
            self._writer.sync()
        except OSError as error:
            raise StorageError.from_os_error(error, self._writer.path, "write the journal") from error


async def _to_the_end(writing: asyncio.Task[None]) -> None:
    """Finish a write even when its owner is cancelled meanwhile, so that the next one cannot overtake it."""
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        raise


def _settle(batch: list[tuple[bytes, asyncio.Future[None]]], error: EsperError | None) -> None:
    for _, written in batch:
        if written.done():
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)


def _look_at(written: asyncio.Future[None]) -> None:
    """Mark a failure as seen; who needs it awaits the future."""
    if not written.cancelled():
        written.exception()
