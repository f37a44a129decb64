"""What lies between the two threads: bounded queues and a slot. None of them ever blocks the training thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Messages to the training thread, which looks at every fence and may wait where it has nothing else to do.

    Parameters
    ----------
    limit : int
        How many may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()

    def post(self, item: T, *, urgent: bool = False) -> bool:
        """Add a message; False when the queue is full and the message was not taken. An urgent one always is."""
        with self._changed:
            if len(self._items) >= self._limit and not urgent:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def drain(self) -> list[T]:
        """Take everything that is there."""
        if not self._items:  # A look without the lock: at nearly every fence there is nothing.
            return []
        with self._changed:
            items = list(self._items)
            self._items.clear()
            return items

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is there, or the time is over; say which."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._items), timeout_s)


class Outbox(Generic[T]):
    """Messages from the training thread to a peer; what may be lost is dropped first when the queue is full.

    Parameters
    ----------
    limit : int
        How many may wait.
    droppable : callable
        Says whether a message may be dropped for a newer one.
    """

    def __init__(self, limit: int, droppable: Callable[[T], bool]) -> None:
        self._limit = limit
        self._droppable = droppable
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self.dropped = 0

    def on_put(self, wake: Callable[[], None] | None) -> None:
        """Name the one who is told that something was put; called on the training thread, must not block."""
        self._wake = wake

    def put(self, item: T) -> None:
        """Add a message; in a full queue the oldest droppable one gives way, else the oldest."""
        with self._lock:
            if len(self._items) >= self._limit:
                self._make_room()
            self._items.append(item)
        if self._wake is not None:
            self._wake()

    def take(self) -> list[T]:
        """Take everything that is there."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            return items

    def clear(self) -> None:
        """Forget everything, because a new greeting says it anew."""
        with self._lock:
            self._items.clear()

    def __len__(self) -> int:
        return len(self._items)

    def _make_room(self) -> None:
        self.dropped += 1
        for index, item in enumerate(self._items):
            if self._droppable(item):
                del self._items[index]
                return
        self._items.popleft()


class LatestSlot(Generic[T]):
    """One place for the latest record. The reader says when it wants one; until then the writer need not make any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: T | None = None
        self._wake: Callable[[], None] | None = None
        self._closed = False
        self.wanted = False

    def on_put(self, wake: Callable[[], None] | None) -> None:
        """Name the one who is told that a record was put; must not block."""
        self._wake = wake

    def want(self) -> None:
        """Ask for a record made from now on; after the last one there is no newer."""
        with self._lock:
            if not self._closed:
                self._item = None
                self.wanted = True

    def put(self, item: T) -> None:
        """Put a record; an older one that nobody took is replaced."""
        with self._lock:
            self._item = item
            self.wanted = False
        if self._wake is not None:
            self._wake()

    def put_last(self, item: T) -> None:
        """Put the last record there will be; it stays until it is taken."""
        self.put(item)
        with self._lock:
            self._item = item
            self._closed = True

    def take(self) -> T | None:
        """Take the record, or None where none was put since the last time."""
        with self._lock:
            item, self._item = self._item, None
            return item
