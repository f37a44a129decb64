"""Counts runs for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from esper_core import leyline
from esper_core.telemetry import Instruments
from tolaria.service.runs import ENDED, state_word


class RunTally:
    """Runs by state, and how they ended.

    Parameters
    ----------
    instruments : Instruments
        Where the figures go.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._states = [state for state in leyline.RunState.values() if state and state not in ENDED]

    def active(self, states: Iterable[int]) -> None:
        """Show how many runs are in each state that isn't an end."""
        counted = Counter(states)
        for state in self._states:
            self._instruments.gauge("tolaria.runs.active", counted[state], state=state_word(state))

    def ended(self, state: int) -> None:
        """Count a run that has ended."""
        self._instruments.count("tolaria.runs.finished_total", state=state_word(state))

    def emergency_halt(self) -> None:
        """Count a run that was halted by an emergency."""
        self._instruments.count("tolaria.emergency.halts_total")
