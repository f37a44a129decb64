"""How much memory a kernel keeps while it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from torch import Tensor

from urabrask.trial.learning import Update

PARTS: Final = 5
Reading = Callable[[], int | None]


class WatchedRule:
    """An update rule that reads the memory of the process before the first and after each step.

    Parameters
    ----------
    rule : Update
        Changes the parameters.
    resident_bytes : callable
        Memory of this process, None where the system does not tell.
    """

    def __init__(self, rule: Update, resident_bytes: Reading) -> None:
        self.name = rule.name
        self._rule = rule
        self._resident_bytes = resident_bytes
        self._readings = [resident_bytes()]

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Change the parameters in place."""
        self._rule(parameters, gradients)
        self._readings.append(self._resident_bytes())

    def steady_growth(self) -> int | None:
        """Return the bytes that were gained steadily; None where the system does not tell."""
        known = [reading for reading in self._readings if reading is not None]
        return steady_growth(known) if len(known) == len(self._readings) else None


def steady_growth(readings: Sequence[int]) -> int:
    """Return five times what the fifth of the series gained that gained least, at least 0."""
    last = len(readings) - 1
    marks = [readings[last * part // PARTS] for part in range(PARTS + 1)]
    return max(0, PARTS * min(later - earlier for earlier, later in pairwise(marks)))
