"""Time as the control plane sees it: a fixed span per optimizer step, so that no result depends on the machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from esper_core.clocks import ManualClock

STEP_S: Final = 0.001
_AHEAD: Final = timedelta(days=30)


class StepClock(ManualClock):
    """A clock that stands at a number of optimizer steps.

    It runs a month ahead of the machine's, because Tolaria's fence compares deadlines with the machine's own clock and
    must not find one passed only because the machine is slow.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(datetime.now(UTC) + _AHEAD)

    def reach(self, step: int) -> None:
        """Move to an optimizer step; a rollback does not turn time back."""
        behind = step * STEP_S - self.monotonic()
        if behind > 0:
            self.advance(behind)
