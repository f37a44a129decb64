"""What a session did, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

What = Literal[
    "germinated", "training", "blending", "shadowing", "probationary", "fossilised", "culled", "rolled_back", "skipped"
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a session did.

    Attributes
    ----------
    step : int
        Optimizer steps made until then.
    what : str
        Kind of event.
    seed_id : str
        The seed; empty where it concerns none.
    sentence : str
        What happened and why, for people.
    numbers : Mapping[str, float]
        What was measured for it.
    """

    step: int
    what: What
    seed_id: str
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain data."""
        return {
            "step": self.step,
            "what": self.what,
            "seed_id": self.seed_id,
            "sentence": self.sentence,
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """Read an event written by `to_dict`."""
        return cls(**data)


class History:
    """Every event of a session in order."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def tell(self, step: int, what: What, seed_id: str, sentence: str, numbers: Mapping[str, float]) -> None:
        """Add an event."""
        self._events.append(Event(step, what, seed_id, sentence, dict(numbers)))

    def without(self, seed_id: str) -> list[dict[str, Any]]:
        """Return all events as plain data, except those of one seed."""
        return [event.to_dict() for event in self._events if not event.seed_id or event.seed_id != seed_id]

    def replace(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take over the history of a saved session."""
        self._events = [Event.from_dict(event) for event in events]

    def seeds(self, what: What) -> list[str]:
        """Return the seeds to which something happened, in order."""
        return [event.seed_id for event in self._events if event.what == what]


def explain(events: Iterable[Event]) -> str:
    """Return the events as lines of text."""
    found = list(events)
    width = max((len(event.what) for event in found), default=0)
    return "\n".join(
        f"step {event.step:>6}  {event.what:<{width}}  {event.seed_id + ': ' if event.seed_id else ''}{event.sentence}"
        for event in found
    )
