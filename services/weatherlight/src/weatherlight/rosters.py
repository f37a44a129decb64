"""The two ways in which Weatherlight knows its services."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from esper_core import leyline
from weatherlight.health import HealthBoard
from weatherlight.orchestrator import ServiceView, not_supervised
from weatherlight.supervisor import Supervisor
from weatherlight.topology import NODES, SELF, SYSTEM


@dataclass(frozen=True, slots=True)
class LocalRoster:
    """The services of a local stack, from its record.

    Parameters
    ----------
    supervisor : Supervisor
        Keeps them alive.
    """

    supervisor: Supervisor

    @property
    def stack_id(self) -> str:
        """Id of the stack."""
        return self.supervisor.record.stack_id

    def views(self, board: HealthBoard) -> list[ServiceView]:
        """Return all services in the order of start."""
        return [*(self._view(node.name, board) for node in SYSTEM), self._own_view()]

    async def restart(self, name: str) -> None:
        """End a service; it is started again at once."""
        await self.supervisor.restart(name)

    def _own_view(self) -> ServiceView:
        service = self.supervisor.record.services[SELF]
        memory_mb, started_at = _process_figures(os.getpid())
        return ServiceView(
            name=SELF,
            address=service.address,
            health=leyline.HEALTH_STATUS_HEALTHY,
            reason="",
            depends_on=(),
            metrics_address=service.metrics_address,
            pid=os.getpid(),
            restarts=service.restarts,
            started_at=started_at,
            memory_mb=memory_mb,
        )

    def _view(self, name: str, board: HealthBoard) -> ServiceView:
        service, health = self.supervisor.record.services[name], board.of(name)
        memory_mb, started_at = _process_figures(service.pid)
        return ServiceView(
            name=name,
            address=service.address,
            health=health.status,
            reason=health.reason,
            depends_on=NODES[name].depends_on,
            metrics_address=service.metrics_address,
            pid=service.pid,
            restarts=service.restarts,
            started_at=started_at,
            supervised=True,
            memory_mb=memory_mb,
            crash_looping=self.supervisor.crash_looping(name),
        )


@dataclass(frozen=True, slots=True)
class ConfiguredRoster:
    """Services that others run, by address.

    Parameters
    ----------
    addresses : Mapping[str, str]
        host:port by service name.
    """

    addresses: Mapping[str, str]

    @property
    def stack_id(self) -> str:
        """Empty: there is no local stack."""
        return ""

    def views(self, board: HealthBoard) -> list[ServiceView]:
        """Return the configured services in the order of start."""
        return [
            ServiceView(
                name=node.name,
                address=self.addresses[node.name],
                health=board.of(node.name).status,
                reason=board.of(node.name).reason,
                depends_on=node.depends_on,
            )
            for node in SYSTEM
            if node.name in self.addresses
        ]

    async def restart(self, name: str) -> None:
        """Refuse: whoever deployed the service restarts it."""
        raise not_supervised(name)


def _process_figures(pid: int) -> tuple[float | None, datetime | None]:
    if not pid:
        return None, None
    try:
        process = psutil.Process(pid)
        return process.memory_info().rss / 2**20, datetime.fromtimestamp(process.create_time(), UTC)
    except psutil.Error:
        return None, None
