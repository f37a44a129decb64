"""Groups of seeds in the optimizer, behind a breaker: a rebuild that keeps failing must not be tried on and on."""

from __future__ import annotations

from typing import Final

from esper_core.breaker import CircuitBreaker, Transition
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.leyline import CircuitState
from esper_core.logs import get_logger
from esper_runtime.errors import OptimizerRebuildError
from esper_runtime.optim import add_seed_group, remove_seed_group
from tolaria.training.session import Session

FAILURES: Final = 3
OPEN_S: Final = 30.0
_TORCH_REFUSALS: Final = (ValueError, TypeError, RuntimeError, KeyError)
_log = get_logger("optimizer")


class Regrouping:
    """Adds and removes the groups of seeds; what the other groups hold stays as it is.

    After three failures in a row no seed is attached for 30 seconds; then one is tried.

    Parameters
    ----------
    session : Session
        The run.
    """

    def __init__(self, session: Session, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._session = session
        self._breaker = CircuitBreaker(
            "optimizer", failure_threshold=FAILURES, open_s=OPEN_S, on_transition=_tell, clock=clock
        )

    def check(self) -> None:
        """Refuse before the model is touched where a rebuild would be held back.

        Raises
        ------
        CircuitOpenError
            With the seconds until one is tried again.
        """
        if self._breaker.snapshot().retry_after_s > 0:
            self._breaker.acquire().abandon()

    def add(self, seed_id: str) -> None:
        """Give an attached seed its group.

        Raises
        ------
        OptimizerRebuildError
            If the optimizer refuses the group; it is as before then.
        CircuitOpenError, EsperError
            If rebuilds are held back, or the seed is unknown or has a group.
        """
        with self._breaker.guard():
            try:
                add_seed_group(self._session.host, self._session.optimizer, seed_id)
            except _TORCH_REFUSALS as error:
                raise OptimizerRebuildError(
                    f"The optimizer refused a group for seed {seed_id}: {error} The seed is taken out again."
                ) from error

    def remove(self, seed_id: str) -> None:
        """Drop a seed's group with its moments."""
        remove_seed_group(self._session.optimizer, seed_id)


def _tell(transition: Transition) -> None:
    state = CircuitState.Name(transition.to_state)
    _log.warning("the breaker of optimizer rebuilds moved", to_state=state, reason=transition.reason)
