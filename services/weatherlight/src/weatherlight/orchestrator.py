"""What Weatherlight knows and decides, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from esper_core import leyline
from esper_core.clocks import Clock
from esper_core.errors import StateConflictError, ValidationError
from weatherlight.emergencies import Emergency, EmergencyRouter, Routing
from weatherlight.health import HealthBoard
from weatherlight.mode import ModeKeeper


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service as Weatherlight sees it; the fields are those of `weatherlight.v1.ServiceStatus`."""

    name: str
    address: str
    health: leyline.HealthStatus.ValueType
    reason: str
    depends_on: tuple[str, ...]
    metrics_address: str = ""
    pid: int = 0
    restarts: int = 0
    started_at: datetime | None = None
    supervised: bool = False
    memory_mb: float | None = None
    crash_looping: bool = False


@dataclass(frozen=True, slots=True)
class SystemView:
    """The whole system."""

    mode: leyline.SystemMode.ValueType
    reasons: tuple[str, ...]
    services: tuple[ServiceView, ...]
    observed_at: datetime
    stack_id: str


class Roster(Protocol):
    """Knows the services: from the stack's record in a local stack, from settings elsewhere."""

    @property
    def stack_id(self) -> str:
        """Id of the stack; empty outside of a local stack."""
        ...

    def views(self, board: HealthBoard) -> list[ServiceView]:
        """Return all services in the order of start."""
        ...

    async def restart(self, name: str) -> None:
        """Restart a service; StateConflictError where others supervise."""
        ...


@dataclass(slots=True)
class Orchestrator:
    """The orchestrator.

    Parameters
    ----------
    roster : Roster
        Knows the services.
    board : HealthBoard
        Their health.
    modes : ModeKeeper
        The mode and its reasons.
    router : EmergencyRouter
        Acts on emergencies.
    clock : Clock
        Gives the time of views.
    mode_changed : Callable[[leyline.SystemMode.ValueType, list[str]], None]
        Told about every change of the mode.
    raised_here : Callable[[Emergency], None]
        Told about every emergency that was raised by a call, so that the bus hears of it.
    """

    roster: Roster
    board: HealthBoard
    modes: ModeKeeper
    router: EmergencyRouter
    clock: Clock
    mode_changed: Callable[[leyline.SystemMode.ValueType, list[str]], None]
    raised_here: Callable[[Emergency], None] = lambda _: None
    _last_mode: leyline.SystemMode.ValueType = leyline.SYSTEM_MODE_OPERATIONAL
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def system(self) -> SystemView:
        """Return the system as it is now."""
        return SystemView(
            mode=self.modes.mode(),
            reasons=tuple(self.modes.reasons()),
            services=tuple(self.roster.views(self.board)),
            observed_at=self.clock.wall(),
            stack_id=self.roster.stack_id,
        )

    async def watch(self) -> AsyncIterator[SystemView]:
        """Yield the system now and after every change."""
        while True:
            yield self.system()
            async with self._changed:
                await self._changed.wait()

    async def follow_health(self) -> None:
        """Keep the mode in step with the board, for ever."""
        while True:
            await self.board.next_change()
            self.modes.observe_health(self.board.unhealthy())
            await self._announce()

    async def emergency(self, emergency: Emergency) -> Routing:
        """Act on an emergency."""
        _require_reason(emergency.reason)
        if emergency.level not in leyline.EmergencyLevel.values() or not emergency.level:
            raise ValidationError("An emergency needs a level.", field="level", allowed="L1 to L4")
        routing = await self.router.route(emergency)
        await self._announce()
        return routing

    async def raise_here(self, emergency: Emergency) -> Routing:
        """Act on an emergency that was raised by a call, and tell everybody about it."""
        routing = await self.emergency(emergency)
        self.raised_here(emergency)
        return routing

    async def clear(self, training_run_id: str, reason: str) -> Routing:
        """End all emergencies."""
        _require_reason(reason)
        self.modes.clear_emergencies()
        routing = await self.router.clear(training_run_id, reason)
        await self._announce()
        return routing

    async def set_mode(self, mode: leyline.SystemMode.ValueType, reason: str) -> SystemView:
        """Set the mode by an operator's word; OPERATIONAL takes the word back, but heals nothing."""
        _require_reason(reason)
        if mode == leyline.SYSTEM_MODE_EMERGENCY:
            raise ValidationError(
                "EMERGENCY is entered by raising an emergency of level HALT.",
                field="mode",
                allowed="OPERATIONAL or CONSERVATIVE",
            )
        self.modes.set_by_operator(mode, reason)
        await self.router.peers.set_conservative("", reason, enabled=mode == leyline.SYSTEM_MODE_CONSERVATIVE)
        await self._announce()
        return self.system()

    async def restart(self, name: str) -> ServiceView:
        """Restart a service of a local stack and return it."""
        await self.roster.restart(name)
        return next(view for view in self.system().services if view.name == name)

    async def _announce(self) -> None:
        mode = self.modes.mode()
        if mode != self._last_mode:
            self._last_mode = mode
            self.mode_changed(mode, self.modes.reasons())
        async with self._changed:
            self._changed.notify_all()


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise ValidationError("A reason is needed.", field="reason", allowed="a sentence")


def not_supervised(name: str) -> StateConflictError:
    """Return the error for a restart where Weatherlight does not supervise."""
    return StateConflictError(f"{name} is not supervised by Weatherlight here; restart it where it is deployed.")
