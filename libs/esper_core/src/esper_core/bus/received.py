"""What a handler gets, and what its outcome means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from esper_core import leyline
from esper_core.clocks import from_timestamp
from esper_core.errors import EsperError


@dataclass(frozen=True, slots=True)
class Received:
    """A verified message.

    Attributes
    ----------
    message : Message
        The parsed payload: the Leyline class that belongs to `message_type`.
    envelope : BusEnvelope
        The envelope as it was published.
    stream : str
        Logical stream that it came from.
    attempt : int
        1 at first, higher when it was delivered before.
    claimed : bool
        Whether it was taken over from a consumer that did not answer.
    """

    message: Any
    envelope: leyline.BusEnvelope
    stream: str
    attempt: int
    claimed: bool

    @property
    def message_type(self) -> int:
        """Value of BusMessageType."""
        return self.envelope.message_type

    @property
    def message_id(self) -> str:
        """Id of the message, the same at every delivery."""
        return self.envelope.message_id

    @property
    def priority(self) -> int:
        """Priority as the producer set it."""
        return self.envelope.priority

    @property
    def source(self) -> str:
        """Service that published."""
        return self.envelope.source

    @property
    def run_id(self) -> str:
        """Run concerned; empty where none is."""
        return self.envelope.training_run_id

    @property
    def published_at(self) -> datetime:
        """Wall time of publication."""
        return from_timestamp(self.envelope.published_at)


Handler: TypeAlias = Callable[[Received], Awaitable[object]]
"""Returning acknowledges. An exception gives the message back: for a retry, or, when it is an `EsperError` that says a
retry cannot help, to the dead letters."""


def is_permanent(error: Exception) -> bool:
    """Tell whether a handler's error means that no retry can help."""
    return isinstance(error, EsperError) and not error.retryable
