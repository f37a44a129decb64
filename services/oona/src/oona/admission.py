"""Who may publish now: CRITICAL always, HIGH by its bucket and the emergency backlog, the rest by back-pressure."""

from __future__ import annotations

from collections.abc import Mapping

from esper_core import leyline
from esper_core.bus.routing import EMERGENCY
from esper_core.errors import ResourceExhaustedError
from oona.pressure import PressureGate
from oona.tokens import TokenBuckets

RATE_LIMIT, BACKLOG, BACK_PRESSURE = "rate_limit", "emergency_backlog", "back_pressure"


class Admission:
    """The rules at the entrance.

    Parameters
    ----------
    gates : Mapping of str to PressureGate
        Back-pressure by logical stream.
    buckets : TokenBuckets
        Tokens for HIGH messages.
    emergency_threshold : int
        Backlog of the emergency stream from which HIGH is refused, to keep the way free for CRITICAL.
    """

    def __init__(self, gates: Mapping[str, PressureGate], buckets: TokenBuckets, emergency_threshold: int) -> None:
        self.gates = gates
        self.buckets = buckets
        self._threshold = emergency_threshold

    def require_admitted(self, stream: str, priority: int, source: str, now_s: float) -> None:
        """Let a message pass.

        Parameters
        ----------
        stream : str
            Logical stream it would ride.
        priority : MessagePriority
            Its priority.
        source : str
            Who publishes.
        now_s : float
            Monotonic seconds.

        Raises
        ------
        ResourceExhaustedError
            With the seconds to wait; `details["reason"]` says which rule it was.
        """
        if priority == leyline.MESSAGE_PRIORITY_CRITICAL:
            return
        if priority == leyline.MESSAGE_PRIORITY_HIGH:
            self._require_high(source, now_s)
        elif self.gates[stream].refuses(priority):
            raise self._held_back(stream, priority, now_s)

    def _require_high(self, source: str, now_s: float) -> None:
        backlog = self.gates[EMERGENCY].backlog
        if backlog >= self._threshold:
            raise _refused(
                f"{backlog} messages on the emergency stream are not acknowledged; HIGH has to wait for CRITICAL.",
                BACKLOG,
                1.0,
            )
        wait_s = self.buckets.take(source, now_s)
        if wait_s > 0:
            raise _refused(f"{source} has used up its HIGH messages of this minute.", RATE_LIMIT, wait_s)

    def _held_back(self, stream: str, priority: int, now_s: float) -> ResourceExhaustedError:
        gate = self.gates[stream]
        name = leyline.MessagePriority.Name(leyline.MessagePriority.ValueType(priority))
        return _refused(
            f"Consumers of the {stream} stream are {gate.backlog} messages behind; "
            f"{name.removeprefix('MESSAGE_PRIORITY_')} messages are refused until they catch up.",
            BACK_PRESSURE,
            gate.retry_after_s(now_s),
        )


def _refused(sentence: str, reason: str, retry_after_s: float) -> ResourceExhaustedError:
    return ResourceExhaustedError(sentence, details={"reason": reason}, retry_after_s=retry_after_s)
