"""The numbers by which Kasmina decides; the settings fill them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kasmina.dwell import DwellPolicy
from kasmina.gates.limits import GateLimits


@dataclass(frozen=True, slots=True)
class Rules:
    """All bounds of the run's state machine.

    Attributes
    ----------
    live_seeds : int
        Seeds that may be under way in one run at a time.
    embargo_s, embargo_epochs : float, int
        A culled pair of site and blueprint waits until the earlier of the two has passed.
    directive_timeout_s : float
        Time that the runtime has to apply a directive.
    directive_attempts : int
        Times that a directive is given before Kasmina gives up.
    """

    dwell: DwellPolicy = field(default_factory=DwellPolicy)
    limits: GateLimits = field(default_factory=GateLimits)
    live_seeds: int = 1
    embargo_s: float = 900.0
    embargo_epochs: int = 10
    directive_timeout_s: float = 30.0
    directive_attempts: int = 3
