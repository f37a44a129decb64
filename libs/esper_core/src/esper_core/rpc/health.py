"""Health of a server: SERVING while every watched dependency answers, for each service and for the whole (`""`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper_core.errors import NotFoundError
from esper_core.logs import get_logger

Probe = Callable[[], Awaitable[object]]
"""Answers when the dependency does; raises, or returns False, when it does not."""

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_log: Final = get_logger("rpc.health")


@dataclass(slots=True)
class Dependency:
    """One thing the server cannot do without."""

    name: str
    probe: Probe
    interval_s: float
    timeout_s: float
    problem: str | None = "not probed yet"

    async def check(self) -> bool:
        """Probe once; returns whether the verdict changed."""
        before = self.problem
        self.problem = await self._problem()
        if before == self.problem:
            return False
        if self.problem is None:
            _log.info("dependency answers", dependency=self.name)
        else:
            _log.warning("dependency does not answer; not serving", dependency=self.name, reason=self.problem)
        return (before is None) != (self.problem is None)

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.probe()
        except TimeoutError:
            return f"no answer within {self.timeout_s:g} s"
        except Exception as error:
            # A probe may fail in any way; each of them is an answer, and it is logged by `check`.
            return f"{type(error).__name__}: {error}"
        return "it says no" if answer is False else None


class HealthBoard(health_pb2_grpc.HealthServicer):
    """The grpc.health.v1 service.

    Other than the stock servicer it derives every status from the dependencies, and ends its watches at a drain, which
    would otherwise wait for them until its grace is over.
    """

    def __init__(self) -> None:
        self._services: set[str] = {""}
        self._dependencies: dict[str, Dependency] = {}
        self._draining = False
        self._changed = asyncio.Condition()

    def add_service(self, name: str) -> None:
        """Answer for one more service."""
        self._services.add(name)

    def add_dependency(self, dependency: Dependency) -> None:
        """Serve only while this dependency answers."""
        self._dependencies[dependency.name] = dependency

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        """What is watched."""
        return tuple(self._dependencies.values())

    @property
    def problems(self) -> dict[str, str]:
        """Why the server is not serving: dependency to reason."""
        found = {name: item.problem for name, item in self._dependencies.items() if item.problem is not None}
        return {"draining": "shutting down", **found} if self._draining else found

    @property
    def serving(self) -> bool:
        """Whether everything answers."""
        return not self.problems

    async def watch(self, dependency: Dependency) -> None:
        """Probe one dependency for ever; the host owns the task."""
        while True:
            if await dependency.check():
                await self.announce()
            await asyncio.sleep(dependency.interval_s)

    async def drain(self) -> None:
        """Say NOT_SERVING from now on, and end all watches."""
        self._draining = True
        await self.announce()

    async def announce(self) -> None:
        """Wake the watchers."""
        async with self._changed:
            self._changed.notify_all()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _UNKNOWN
        return SERVING if self.serving else NOT_SERVING

    async def Check(self, request: Any, context: Any) -> Any:
        """Answer once."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            known = ", ".join(sorted(name for name in self._services if name))
            raise NotFoundError(f"No service {request.service!r} is here. Ask for one of: {known}.")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer now and at every change, until the client leaves or the server drains."""
        last: Any = None
        while True:
            status = self._status(request.service)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            if self._draining:
                return
            await self._changed_from(request.service, last)

    async def _changed_from(self, service: str, last: Any) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._draining or self._status(service) != last)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)
