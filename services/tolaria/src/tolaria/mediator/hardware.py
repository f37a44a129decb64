"""The machine, looked at once a second at most: asking the system costs more than a training step of a small model."""

from __future__ import annotations

from typing import Final

import psutil

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock

_GIB: Final = 2.0**30
_FRESH_S: Final = 1.0


class Hardware:
    """Describes the device of a run.

    Parameters
    ----------
    device : str
        The device as the run names it.
    """

    def __init__(self, device: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._device = device
        self._clock = clock
        self._looked_at = float("-inf")
        self._last = leyline.HardwareContext()

    def now(self) -> leyline.HardwareContext:
        """Return the device as it was within the last second; the caller must not change it."""
        if self._clock.monotonic() - self._looked_at >= _FRESH_S:
            self._looked_at = self._clock.monotonic()
            self._last = self._look()
        return self._last

    def _look(self) -> leyline.HardwareContext:
        memory = psutil.virtual_memory()
        return leyline.HardwareContext(
            device_type=self._device.partition(":")[0],
            device_id=self._device,
            memory_total_gb=memory.total / _GIB,
            memory_available_gb=memory.available / _GIB,
            utilisation_percent=psutil.cpu_percent(None),
        )
