"""Kasmina's place on the bus: telemetry and prefetches out, news of kernels in."""

from __future__ import annotations

import asyncio
from typing import Final

from esper_core import leyline
from esper_core.bus import BusPlace, Received
from kasmina.loading import KernelLoadManager

NEWS: Final = (leyline.BUS_MESSAGE_TYPE_KERNEL_READY, leyline.BUS_MESSAGE_TYPE_KERNEL_ERROR)


class KasminaPlace(BusPlace):
    """What Kasmina says and hears on the bus."""

    async def consume(self, kernels: KernelLoadManager) -> None:
        """Take news of kernels until cancelled; news that comes twice changes nothing."""
        if self._bus is None:
            await asyncio.Event().wait()
            return

        async def handle(received: Received) -> None:
            if isinstance(received.message, leyline.KernelReady):
                kernels.ready(received.message)
            else:
                kernels.failed(received.message)

        await self._bus.consume(NEWS, group="kasmina", handler=handle)
