"""Checkpoints written beside training: the snapshot owns its tensors, so that writing it needs nobody to wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from esper_core.errors import EsperError
from esper_runtime.snapshot import Snapshot
from tolaria.state.checkpoints import CheckpointRecord, CheckpointStore, Reason


@dataclass(frozen=True, slots=True)
class Written:
    """How one writing ended: with a record, or with an error.

    Attributes
    ----------
    snapshot : Snapshot
        What was to be written.
    reason : str
        Why.
    epoch, generation : int
        Of the run when the snapshot was taken.
    outcome : CheckpointRecord or EsperError
        What came of it.
    """

    snapshot: Snapshot
    reason: Reason
    epoch: int
    generation: int
    outcome: CheckpointRecord | EsperError


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own.

    Parameters
    ----------
    store : CheckpointStore
        Where they go.
    before : callable
        Called on that thread first, to make durable what belongs before the checkpoint.
    """

    def __init__(self, store: CheckpointStore, before: Callable[[], None]) -> None:
        self._store = store
        self._before = before
        self._thread: threading.Thread | None = None
        self._done: Written | None = None
        self._broken: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written or its outcome was not collected yet."""
        return self._thread is not None

    def begin(self, snapshot: Snapshot, reason: Reason, epoch: int, generation: int) -> None:
        """Begin to write; the one before must have been collected."""
        assert self._thread is None
        # Not a daemon: a process that ends waits until its last checkpoint is whole.
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, reason, epoch, generation), name="checkpoint-writer"
        )
        self._thread.start()

    def collect(self, *, wait: bool = False) -> Written | None:
        """Return how the writing ended, once; None while it goes on, or where there was none.

        Raises
        ------
        Exception
            Whatever is no error of ours and came up on the other thread.
        """
        if self._thread is None or (self._thread.is_alive() and not wait):
            return None
        self._thread.join()
        self._thread = None
        done, self._done = self._done, None
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken
        return done

    def _write(self, snapshot: Snapshot, reason: Reason, epoch: int, generation: int) -> None:
        try:
            self._done = Written(snapshot, reason, epoch, generation, self._outcome(snapshot, reason))
        except Exception as error:  # Raised where it is collected.
            self._broken = error

    def _outcome(self, snapshot: Snapshot, reason: Reason) -> CheckpointRecord | EsperError:
        try:
            self._before()
            return self._store.write(snapshot, reason)
        except EsperError as error:
            return error
