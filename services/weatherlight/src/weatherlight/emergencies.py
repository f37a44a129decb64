"""What is done about an emergency: once for each signal, never delayed, and told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from esper_core import leyline
from esper_core.errors import EsperError, ValidationError
from esper_core.keyed_locks import KeyedLocks

REMEMBERED_SIGNALS: Final = 10_000
FAILED: Final = "failed: "
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Emergency:
    """An emergency, whoever raised it.

    Parameters
    ----------
    signal_id : str
        Id, for deduplication.
    level : leyline.EmergencyLevel.ValueType
        How grave.
    reason : str
        A sentence.
    origin : str
        Service that raised it.
    training_run_id : str
        Run concerned; empty means all.
    """

    signal_id: str
    level: leyline.EmergencyLevel.ValueType
    reason: str
    origin: str
    training_run_id: str = ""


@dataclass(frozen=True, slots=True)
class Routing:
    """What was done about an emergency."""

    signal_id: str
    actions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    duplicate: bool = False

    @property
    def complete(self) -> bool:
        """Whether every action succeeded; an incomplete one may be routed again."""
        return not any(action.startswith(FAILED) for action in self.actions)


class Peers(Protocol):
    """Those who must act."""

    async def halt_runs(self, emergency: Emergency) -> list[str]:
        """Have the runs concerned stop at the next fence with a checkpoint; return their ids."""
        ...

    async def warn_runs(self, emergency: Emergency) -> list[str]:
        """Have the runs concerned take note; return their ids."""
        ...

    async def clear_runs(self, training_run_id: str, reason: str) -> list[str]:
        """Have the runs concerned forget their emergency; return their ids."""
        ...

    async def set_conservative(self, training_run_id: str, reason: str, *, enabled: bool) -> None:
        """Switch Tamiyo's conservative mode."""
        ...


@dataclass(slots=True)
class EmergencyRouter:
    """Routes emergencies to those who must act.

    Parameters
    ----------
    peers : Peers
        Those who must act.
    noted : Callable[[Emergency], None]
        Told about each new emergency before anybody acts, so that the mode changes at once.
    """

    peers: Peers
    noted: Callable[[Emergency], None]
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _underway: KeyedLocks = field(default_factory=KeyedLocks)

    async def route(self, emergency: Emergency) -> Routing:
        """Act on an emergency; a signal that was handled before is only told as a duplicate.

        Whatever failed stands in the actions; the signal may then be routed again.
        """
        if not emergency.signal_id:
            raise ValidationError("An emergency needs a signal id.", field="signal_id", allowed="a unique id")
        # The same signal may come two ways at once: the second waits to hear what became of the first.
        async with self._underway.hold(emergency.signal_id):
            if emergency.signal_id in self._seen:
                return Routing(emergency.signal_id, duplicate=True)
            self.noted(emergency)
            routing = await self._act(emergency)
            if routing.complete:
                self._remember(emergency.signal_id)
            return routing

    async def clear(self, training_run_id: str, reason: str) -> Routing:
        """Tell everybody that the emergency is over."""
        actions: list[str] = []
        runs = await self._attempt(actions, "tolaria cleared it", self.peers.clear_runs(training_run_id, reason))
        quiet = self.peers.set_conservative(training_run_id, reason, enabled=False)
        await self._attempt(actions, "tamiyo left conservative mode", quiet)
        return Routing("", tuple(actions), tuple(runs or ()))

    async def _act(self, emergency: Emergency) -> Routing:
        actions: list[str] = []
        runs: list[str] | None = None
        if emergency.level == leyline.EMERGENCY_LEVEL_HALT:
            runs = await self._attempt(actions, "tolaria halts with a checkpoint", self.peers.halt_runs(emergency))
        elif emergency.level == leyline.EMERGENCY_LEVEL_CONSERVATIVE:
            runs = await self._attempt(actions, "tolaria took note", self.peers.warn_runs(emergency))
        if emergency.level >= leyline.EMERGENCY_LEVEL_CONSERVATIVE:
            cautious = self.peers.set_conservative(emergency.training_run_id, emergency.reason, enabled=True)
            await self._attempt(actions, "tamiyo entered conservative mode", cautious)
        return Routing(emergency.signal_id, tuple(actions), tuple(runs or ()))

    async def _attempt(self, actions: list[str], done: str, step: Awaitable[T]) -> T | None:
        # One peer that is away must not keep the next one from acting.
        try:
            result = await step
        except EsperError as error:
            actions.append(f"{FAILED}{done} ({error.message})")
            return None
        actions.append(done)
        return result

    def _remember(self, signal_id: str) -> None:
        self._seen[signal_id] = None
        while len(self._seen) > REMEMBERED_SIGNALS:
            self._seen.popitem(last=False)
