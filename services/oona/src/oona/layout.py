"""Names of keys in Redis.

A message that failed in one group comes again to that group alone, so every group has beside each stream a stream of
its own for what comes again, a sorted set of what waits for its time, and a hash with the bodies of the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from esper_core.bus import STREAMS
from esper_core.errors import ValidationError
from oona.settings import OonaSettings

MAIN, AGAIN = "m", "r"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies.

    Attributes
    ----------
    names : Mapping of str to str
        Logical stream to its name in Redis.
    dead_letters : str
        Name of the dead-letter stream.
    """

    names: Mapping[str, str]
    dead_letters: str

    @classmethod
    def from_settings(cls, settings: OonaSettings) -> Self:
        """Take the names from the settings."""
        names = {logical: getattr(settings, f"stream_{logical.replace('.', '_')}") for logical in STREAMS}
        return cls(names, settings.stream_deadletter)

    def stream(self, logical: str) -> str:
        """Return the stream's name in Redis."""
        return self.names[logical]

    def again(self, logical: str, group: str) -> str:
        """Return the stream of what comes again to one group."""
        return f"{self.names[logical]}.again.{group}"

    def delayed(self, logical: str, group: str) -> str:
        """Return the sorted set of what waits for its time."""
        return f"{self.names[logical]}.delayed.{group}"

    def bodies(self, logical: str, group: str) -> str:
        """Return the hash with the bodies of what waits."""
        return f"{self.names[logical]}.bodies.{group}"

    def seen(self, message_id: str) -> str:
        """Return the key that remembers a message id for a while."""
        return f"{self.dead_letters}.seen.{message_id}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delivery lies for its group; its text is the delivery id."""

    logical: str
    entry_id: str
    again: bool = False

    def __str__(self) -> str:
        return f"{AGAIN if self.again else MAIN}:{self.logical}:{self.entry_id}"

    @classmethod
    def parse(cls, delivery_id: str) -> Self:
        """Read a delivery id.

        Raises
        ------
        ValidationError
            If it is none.
        """
        kind, _, rest = delivery_id.partition(":")
        logical, _, entry_id = rest.rpartition(":")
        if kind not in (MAIN, AGAIN) or logical not in STREAMS or not entry_id.replace("-", "", 1).isdigit():
            raise ValidationError(f"{delivery_id[:80]!r} is no delivery id.", field="delivery_id")
        return cls(logical, entry_id, kind == AGAIN)

    def key(self, layout: Layout, group: str) -> str:
        """Return the stream in Redis that holds the entry."""
        return layout.again(self.logical, group) if self.again else layout.stream(self.logical)
