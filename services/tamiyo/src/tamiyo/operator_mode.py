"""What an operator ordered about conservative mode; kept in a file, because only an operator may end it."""

from __future__ import annotations

from pathlib import Path

from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import ConfigurationError, ValidationError
from esper_core.files import atomic_write_json, read_json
from tamiyo.memory import RunMemory
from tamiyo.runs import RunTable


class OperatorMode:
    """Orders for all runs (under the empty id) and for single ones.

    Parameters
    ----------
    path : Path
        File with the orders, a JSON object of run id to reason.
    runs : RunTable
        Memories that the orders apply to.

    Raises
    ------
    ConfigurationError
        If the file holds something else.
    """

    def __init__(self, path: Path, runs: RunTable, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._runs = runs
        self._clock = clock
        self._orders: dict[str, str] = _read(path)
        runs.on_open(self._obey)

    def switch(self, enabled: bool, reason: str, run_id: str) -> None:
        """Switch the mode on or off, for one run or for all; switching off for all ends the single orders too.

        Raises
        ------
        ValidationError
            If no reason is given.
        """
        if not reason.strip():
            raise ValidationError("Conservative mode needs a reason.", field="reason", allowed="a sentence")
        if enabled:
            self._orders[run_id] = reason
        elif run_id:
            self._orders.pop(run_id, None)
        else:
            self._orders.clear()
        atomic_write_json(self._path, self._orders)
        for memory in self._runs:
            if not run_id or memory.run_id == run_id:
                memory.mode = memory.mode.left()
                self._obey(memory)

    def _obey(self, memory: RunMemory) -> None:
        reason = self._orders.get(memory.run_id) or self._orders.get("")
        if reason and not memory.mode.by_operator:
            memory.mode = memory.mode.entered(reason, self._clock.monotonic(), by_operator=True)

    def enabled(self, run_id: str) -> bool:
        """Tell whether an order stands for a run, or for all with the empty id."""
        return "" in self._orders or run_id in self._orders


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    orders = read_json(path)
    if not isinstance(orders, dict):
        raise ConfigurationError(f"{path} must hold a JSON object of run ids and reasons. Correct or remove it.")
    return {str(run_id): str(reason) for run_id, reason in orders.items()}
