"""The ring of last known good states in memory."""

from __future__ import annotations

from collections import deque

from esper_runtime.snapshot import Snapshot


class SnapshotRing:
    """The newest snapshots of a run; each owns its tensors, so that training cannot tear it.

    Parameters
    ----------
    size : int
        How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._held: deque[Snapshot] = deque(maxlen=size)

    def put(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; the oldest goes when the ring is full."""
        self._held.append(snapshot)

    def newest(self, to_step: int | None = None) -> Snapshot | None:
        """Return the newest snapshot not after a step, or None."""
        fitting = (held for held in reversed(self._held) if to_step is None or held.step <= to_step)
        return next(fitting, None)

    def forget_after(self, step: int) -> None:
        """Drop what lies after a step that was gone back to."""
        kept = [held for held in self._held if held.step <= step]
        self._held.clear()
        self._held.extend(kept)

    def drop_newest(self) -> None:
        """Drop the newest, because going back to it did not help; the last one is kept."""
        if len(self._held) > 1:
            self._held.pop()

    def __len__(self) -> int:
        return len(self._held)
