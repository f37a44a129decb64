"""The record of a local stack: written by Weatherlight, read by everybody who looks for a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from esper_core.errors import IntegrityError, NotFoundError
from esper_core.files import atomic_write_json, read_json
from esper_core.stack.processes import ProcessIdentity


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """One service of the stack.

    Parameters
    ----------
    name : str
        Service name; "valkey" for the embedded Redis-compatible server.
    address : str
        host:port of its gRPC server (of its Redis protocol for valkey).
    metrics_address : str
        host:port of its Prometheus page; empty for valkey.
    pid, started_ticks : int
        Its process; both 0 while none runs.
    restarts : int
        Times it was started again since the stack came up.
    """

    name: str
    address: str
    metrics_address: str = ""
    pid: int = 0
    started_ticks: int = 0
    restarts: int = 0

    @property
    def process(self) -> ProcessIdentity | None:
        """The recorded process, dead or alive; None while none was started."""
        return ProcessIdentity(self.pid, self.started_ticks) if self.pid else None


@dataclass(frozen=True, slots=True)
class StackRecord:
    """A local stack.

    Parameters
    ----------
    stack_id : str
        ULID, made when the state folder was first used.
    created_at : str
        Wall time of that, ISO 8601.
    services : Mapping[str, ServiceRecord]
        By name, in the order of start.
    """

    stack_id: str
    created_at: str
    services: Mapping[str, ServiceRecord] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises
        ------
        NotFoundError
            If there is none: no stack was ever started in that folder.
        IntegrityError
            If the file does not hold a record.
        """
        if not path.exists():
            raise NotFoundError(
                f"No stack lives in {path.parent}. Start one with `esper up --state-dir {path.parent}`."
            )
        return cls._parsed(read_json(path), path)

    @classmethod
    def _parsed(cls, document: Any, path: Path) -> Self:
        try:
            services = {row["name"]: ServiceRecord(**row) for row in document["services"]}
            return cls(document["stack_id"], document["created_at"], services)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{path} is no stack record ({error}). Stop the stack and delete the file.") from error

    def save(self, path: Path) -> None:
        """Replace the record on disk."""
        document = {
            "stack_id": self.stack_id,
            "created_at": self.created_at,
            "services": [asdict(service) for service in self.services.values()],
        }
        atomic_write_json(path, document)

    def address(self, service: str) -> str:
        """Return the address of a service.

        Raises
        ------
        NotFoundError
            If the stack has no such service.
        """
        if service not in self.services:
            raise NotFoundError(f"The stack has no service {service!r}. It has: {', '.join(self.services)}.")
        return self.services[service].address

    def with_service(self, service: ServiceRecord) -> StackRecord:
        """Return the record with one service replaced or added."""
        return StackRecord(self.stack_id, self.created_at, {**self.services, service.name: service})

    def living(self) -> dict[str, ProcessIdentity]:
        """Return the recorded processes that still live, by service name."""
        processes = {name: service.process for name, service in self.services.items()}
        return {name: process for name, process in processes.items() if process is not None and process.is_alive()}
