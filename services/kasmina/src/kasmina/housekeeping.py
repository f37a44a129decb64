"""What has to be looked at from time to time, whether or not a runtime speaks."""

from __future__ import annotations

import asyncio
from typing import Final

from esper_core.clocks import Clock
from esper_core.errors import StorageError
from esper_core.logs import get_logger
from kasmina.journal import NonceJournal
from kasmina.loading import KernelLoadManager
from kasmina.registry import RunRegistry
from kasmina.verifier import CommandVerifier

INTERVAL_S: Final = 1.0
_log = get_logger("housekeeping")


class Housekeeping:
    """Gives up late prefetches, forgets expired nonces, and keeps gauges true."""

    def __init__(
        self,
        kernels: KernelLoadManager,
        verifier: CommandVerifier,
        nonces: NonceJournal,
        registry: RunRegistry,
        clock: Clock,
    ) -> None:
        self._kernels = kernels
        self._verifier = verifier
        self._nonces = nonces
        self._registry = registry
        self._clock = clock

    async def run(self) -> None:
        """Look after things until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(INTERVAL_S)

    async def once(self) -> None:
        """Look after everything once."""
        self._kernels.give_up_overdue()
        self._verifier.tell_ledger()
        now = self._clock.wall()
        try:
            await asyncio.to_thread(self._nonces.compact, lambda record: record.expires_at > now)
        except StorageError as error:
            _log.error("the nonce journal cannot be shortened", code=error.code, reason=error.message)
        self._kernels.tell_cache()
        self._registry.tell_active()
