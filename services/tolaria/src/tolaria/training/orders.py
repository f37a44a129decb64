"""What can be asked of a running worker from outside and what comes of it, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Order:
    """One order for the next fence; `kind` is a value of OrderKind. A repeated id is answered from memory.

    Attributes
    ----------
    to_step : int or None
        ROLLBACK: the step to go back to, or None for the last good one.
    full : bool
        ROLLBACK: use a durable checkpoint at once.
    level : int
        EMERGENCY: a value of EmergencyLevel. CLEAR_EMERGENCY: the level to lower to, 0 to clear.
    signal_id, origin : str
        EMERGENCY: the signal behind it and who raised it.
    triggered_at_s : float or None
        EMERGENCY: when it was raised, in Unix seconds; None means now.
    """

    order_id: str
    kind: int
    reason: str = ""
    to_step: int | None = None
    full: bool = False
    level: int = 0
    signal_id: str = ""
    origin: str = ""
    triggered_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class RateChange:
    """Multiply learning rates from the next step on; an empty group means all."""

    command_id: str
    factor: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class RollbackDone:
    """What a rollback did; times in seconds and Unix seconds.

    Attributes
    ----------
    outcome : int
        A value of RollbackOutcome.
    deadline_s : float
        How long its tier may take.
    full : bool
        Whether it came to the full tier.
    """

    outcome: int
    trigger: str
    latency_s: float
    deadline_at_s: float
    restored_step: int | None
    message: str
    deadline_s: float
    full: bool

    @property
    def deadline_missed(self) -> bool:
        """Whether it took longer than its tier may take, even where it restored something."""
        return self.latency_s > self.deadline_s

    @property
    def full_deadline_missed(self) -> bool:
        """Whether even the last resort came too late."""
        return self.full and self.deadline_missed

    @property
    def restored(self) -> bool:
        """Whether an earlier state is in place."""
        return self.restored_step is not None


@dataclass(frozen=True, slots=True)
class OrderOutcome:
    """What became of an order; the code is of the error catalogue and empty when it was applied."""

    order_id: str
    applied: bool
    error_code: str = ""
    message: str = ""
    rollback: RollbackDone | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the loop ends: its budget is spent, or it was told to halt."""

    how: Literal["completed", "halted"]
    reason: str
