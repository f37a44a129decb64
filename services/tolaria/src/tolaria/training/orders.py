"""What can be asked of a running worker from outside, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


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
        EMERGENCY: a value of EmergencyLevel.
    signal_id, origin : str
        EMERGENCY: the signal behind it and who raised it.
    """

    order_id: str
    kind: int
    reason: str = ""
    to_step: int | None = None
    full: bool = False
    level: int = 0
    signal_id: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class RateChange:
    """Multiply learning rates from the next step on; an empty group means all."""

    command_id: str
    factor: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class RollbackDone:
    """What a rollback did; `outcome` is a value of RollbackOutcome, times in seconds and Unix seconds."""

    outcome: int
    trigger: str
    latency_s: float
    deadline_at_s: float
    restored_step: int | None
    message: str

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
