"""A service of Esper as its own process, on free ports, to be asked, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esper_core.rpc import EsperChannel, open_channel
from esper_core.security import Keyring, TokenSource
from support.ports import free_address
from support.waiting import wait_until

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0


@dataclass(slots=True)
class ServiceProcess:
    """One service; addresses and data folder stay the same over restarts.

    Parameters
    ----------
    name : str
        Import name of the service.
    folder : Path
        Where its data and its log go.
    keyring_file : Path
        Keys shared with the other services.
    environment : Mapping[str, str]
        Further settings.
    """

    name: str
    folder: Path
    keyring_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = field(default_factory=free_address)
    metrics_address: str = field(default_factory=free_address)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything the service has printed."""
        path = self.folder / f"{self.name}.log"
        return path.read_text() if path.exists() else ""

    def start(self, *, until: str = "SERVING") -> None:
        """Start it and wait until its health says `until`; "" waits for nothing."""
        prefix = self.name.upper()
        own = {
            f"{prefix}_LISTEN": self.address,
            f"{prefix}_METRICS_LISTEN": self.metrics_address,
            f"{prefix}_DATA_DIR": str(self.folder / self.name),
            "ESPER_KEYRING_FILE": str(self.keyring_file),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.name],
                env={**os.environ, **own, **self.environment},
                stdout=log,
                stderr=log,
            )
        if until:
            wait_until(lambda: self.health() == until, START_DEADLINE_S, what=f"{self.name} saying {until}")

    def health(self) -> str:
        """Return what its health says, "" when it does not answer."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return ""
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it in good order and return its exit status."""
        return self._end(signal.SIGTERM)

    def channel(self, keyring: Keyring, subject: str = "test") -> EsperChannel:
        """Open a channel to it with the rights of a service."""
        return open_channel(self.address, TokenSource(keyring, subject, "service"), subject)

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        status = self.process.wait(STOP_DEADLINE_S)
        self.process = None
        return status
