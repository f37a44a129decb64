"""Checkpoints read away from the training thread; what comes too late is dropped and never reaches the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

from esper_core.logs import get_logger
from esper_runtime.snapshot import Snapshot
from tolaria.state.checkpoints import BadCheckpoint

Found: TypeAlias = tuple[Snapshot | None, list[BadCheckpoint]]
_log = get_logger("staging")


@dataclass(frozen=True, slots=True)
class Token:
    """Leave to put one reading in place: of this attempt, on the topology of this generation."""

    attempt: int
    generation: int


@dataclass(frozen=True, slots=True)
class Staged:
    """What was read, and the token under which it was asked for."""

    token: Token
    snapshot: Snapshot | None
    bad: tuple[BadCheckpoint, ...]


class Staging:
    """Reads on a thread of its own and hands over only what is still wanted.

    Parameters
    ----------
    read : callable
        Returns the newest good snapshot not after a step, and the bad ones that were passed over.
    """

    def __init__(self, read: Callable[[int | None], Found]) -> None:
        self._read = read
        self._attempt = 0
        self.late = 0

    def fetch(self, to_step: int | None, generation: int, timeout_s: float) -> Staged:
        """Read, and wait for it until the time is over; then the token is worthless.

        Raises
        ------
        TimeoutError
            If it was not read in time. The reading goes on by itself, but nobody can use it.
        EsperError
            If reading failed.
        """
        self._attempt += 1
        token, reading = Token(self._attempt, generation), Future[Found]()
        # A daemon, because a reading that hangs on a dead disk must not keep the process from ending.
        threading.Thread(target=self._fill, args=(reading, to_step, token), name="rollback-reader", daemon=True).start()
        try:
            snapshot, bad = reading.result(timeout_s)
        except TimeoutError:
            self._attempt += 1
            raise
        return Staged(token, snapshot, tuple(bad))

    def admits(self, token: Token, generation: int) -> bool:
        """Say whether a reading may be put in place: asked for last, and the topology is the same as then."""
        return token == Token(self._attempt, generation)

    def _fill(self, reading: Future[Found], to_step: int | None, token: Token) -> None:
        try:
            found = self._read(to_step)
        except Exception as error:  # Whatever it is, the training thread raises it.
            reading.set_exception(error)
            return
        if token.attempt != self._attempt:
            self.late += 1
            _log.warning("a checkpoint was read too late and is dropped", attempt=token.attempt)
            found = (None, [])
        reading.set_result(found)
