"""Oona inside the test's own process, on a real Valkey, stopped and started again under one address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from esper_core.rpc import ServerConfig, ServerHost
from esper_core.security import Keyring
from oona.service import assemble
from oona.settings import OonaSettings
from support.ports import free_address
from support.waiting import await_until

FAST = {"retry_first_delay_ms": 10, "retry_longest_delay_ms": 50, "claim_idle_ms": 1500, "breaker_open_ms": 200}


@dataclass
class LocalOona:
    """One Oona; `registry` holds the metrics of its present life."""

    settings: OonaSettings
    keyring: Keyring
    host: ServerHost | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.settings.listen

    async def start(self, *, serving: bool = True) -> None:
        """Start and wait until it serves."""
        self.registry = CollectorRegistry()
        config = ServerConfig(shutdown_grace_s=0.5, stream_grace_s=0.5)
        host = ServerHost("oona", self.settings.listen, self.keyring, config, self.registry)
        assemble(self.settings, host, self.keyring)
        self.host = host
        await host.start()
        if serving:
            await await_until(lambda: host.health.serving, what="Oona serving")

    async def stop(self) -> None:
        """Drain and end."""
        if self.host is not None:
            await self.host.stop()
            self.host = None

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample's value; 0 when there is none yet."""
        return self.registry.get_sample_value(name, labels) or 0.0


def oona_settings(redis_url: str, folder: Path, **changes: Any) -> OonaSettings:
    """Return settings of a test's Oona."""
    values: dict[str, Any] = {
        "listen": free_address(),
        "metrics_listen": free_address(),
        "data_dir": folder / "oona",
        "keyring_file": folder / "keyring.json",
        "redis_url": redis_url,
        **FAST,
        **changes,
    }
    return OonaSettings(**values)


@asynccontextmanager
async def running_oona(redis_url: str, folder: Path, keyring: Keyring, **changes: Any) -> AsyncIterator[LocalOona]:
    """Run Oona during a with block."""
    oona = LocalOona(oona_settings(redis_url, folder, **changes), keyring)
    await oona.start()
    try:
        yield oona
    finally:
        await oona.stop()
