"""How each service is: what it says itself, and whether it says anything at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from esper_core import leyline
from esper_core.clocks import Clock


@dataclass(frozen=True, slots=True)
class Health:
    """The health of one service.

    Parameters
    ----------
    status : leyline.HealthStatus.ValueType
        HEALTHY when it serves, DEGRADED when it answers that it does not, UNHEALTHY when it does not answer.
    reason : str
        Why, as a sentence; empty when healthy.
    silent_since : float or None
        Monotonic seconds since which it has not answered at all.
    """

    status: leyline.HealthStatus.ValueType
    reason: str = ""
    silent_since: float | None = None

    @property
    def healthy(self) -> bool:
        """Whether it serves."""
        return self.status == leyline.HEALTH_STATUS_HEALTHY


UNKNOWN = Health(leyline.HEALTH_STATUS_UNHEALTHY, "it has not been asked yet")
Probe = Callable[[], Awaitable[bool]]
"""Ask a service: True when it serves, False when it answers that it does not; an exception when it is silent."""


@dataclass(slots=True)
class HealthBoard:
    """Keeps asking all services and tells when an answer changes.

    Parameters
    ----------
    probes : Mapping[str, Probe]
        How to ask each service.
    clock : Clock
        Dates silence.
    interval_s, timeout_s : float
        Pause between questions, and how long an answer may take, in seconds.
    """

    probes: Mapping[str, Probe]
    clock: Clock
    interval_s: float = 0.5
    timeout_s: float = 2.0
    _board: dict[str, Health] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def of(self, name: str) -> Health:
        """Return the last known health of a service."""
        return self._board.get(name, UNKNOWN)

    def unhealthy(self) -> dict[str, str]:
        """Return the services that are not healthy, each with its reason."""
        states = {name: self.of(name) for name in self.probes}
        return {name: state.reason for name, state in states.items() if not state.healthy}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the board holds."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def next_change(self) -> None:
        """Wait for the next change of any service's health."""
        async with self._changed:
            await self._changed.wait()

    async def watch(self) -> None:
        """Ask all services for ever."""
        async with asyncio.TaskGroup() as group:
            for name, probe in self.probes.items():
                group.create_task(self._watch_one(name, probe), name=f"health of {name}")

    async def ask(self, name: str) -> Health:
        """Ask one service now and put the answer on the board."""
        health = await self._answer(name, self.probes[name])
        await self._put(name, health)
        return health

    async def _watch_one(self, name: str, probe: Probe) -> None:
        while True:
            await self._put(name, await self._answer(name, probe))
            await asyncio.sleep(self.interval_s)

    async def _answer(self, name: str, probe: Probe) -> Health:
        try:
            async with asyncio.timeout(self.timeout_s):
                serving = await probe()
        except Exception as error:  # whatever keeps a service from answering is what we want to tell
            since = self.of(name).silent_since
            silent_since = since if since is not None else self.clock.monotonic()
            text = str(error).strip() or type(error).__name__
            return Health(leyline.HEALTH_STATUS_UNHEALTHY, f"it does not answer ({text})", silent_since)
        if serving:
            return Health(leyline.HEALTH_STATUS_HEALTHY)
        return Health(leyline.HEALTH_STATUS_DEGRADED, "it answers that it cannot serve: something it needs is away")

    async def _put(self, name: str, health: Health) -> None:
        before, self._board[name] = self.of(name), health
        if (before.status, before.reason) != (health.status, health.reason):
            async with self._changed:
                self._changed.notify_all()
