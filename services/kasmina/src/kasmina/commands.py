"""Commands and what becomes of them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from esper_core import leyline
from esper_core.blueprints import ParameterValue
from kasmina.blend import Blend


@dataclass(frozen=True, slots=True)
class SeedOperation:
    """Payload of a seed command; `operation` and `isolation` are values of Leyline's enums."""

    operation: int
    blueprint_id: str = ""
    parameters: Mapping[str, ParameterValue] | None = None
    blend: Blend | None = None
    resume: bool = False
    include_teacher: bool = False
    isolation: int = leyline.ISOLATION_MODE_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class OptimizerAdjustment:
    """Payload of an optimizer command."""

    learning_rate_factor: float
    group: str


@dataclass(frozen=True, slots=True)
class TrainerOrder:
    """A payload that the trainer carries out and Kasmina only verifies: rollback, breaker, pause or emergency."""

    name: str


Payload = SeedOperation | OptimizerAdjustment | TrainerOrder | None


@dataclass(frozen=True, slots=True)
class Command:
    """A verified command.

    Attributes
    ----------
    kind : int
        A value of `leyline.CommandType`.
    generation : int
        Topology generation that it was decided on.
    seed_id, site : str
        Whom it is for; at most one is set.
    deadline : datetime or None
        It must not be executed after this moment.
    """

    command_id: str
    run_id: str
    kind: int
    generation: int
    seed_id: str
    site: str
    deadline: datetime | None
    payload: Payload
    decided_at_step: int = 0

    @property
    def operation(self) -> int:
        """The seed operation, or 0 for another kind of command."""
        return self.payload.operation if isinstance(self.payload, SeedOperation) else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command; `reject_reason` is a value of `leyline.RejectReason`, 0 when accepted."""

    command_id: str
    run_id: str
    accepted: bool
    reject_reason: int
    explanation: str
    seed_id: str
    decided_at: datetime
