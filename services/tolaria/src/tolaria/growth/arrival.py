"""Making sure in a compiled run that gradients arrive at a seed; in any other its gates look at that."""

from __future__ import annotations

from esper_runtime.errors import UnreachedSeedError
from esper_runtime.topology import GraftRecord
from tolaria.training.session import Session


class GradientArrival:
    """Looks at every seed after the first step of each stage in which it takes part.

    A graph that was compiled while the seed's parameters were frozen would leave it without gradients for good, and
    so would a loss that does not depend on it.

    Parameters
    ----------
    session : Session
        The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._arrived: set[tuple[str, int]] = set()

    def check(self) -> None:
        """Look at those seeds that the last backward pass should have reached for the first time.

        Raises
        ------
        UnreachedSeedError
            If none of a seed's parameters got a gradient; its detail `seed_id` names the seed.
        """
        for entry in self._session.book.unsettled():
            if (entry.seed_id, entry.stage) not in self._arrived:
                self._look(self._session.host.seed(entry.seed_id))

    def _look(self, record: GraftRecord) -> None:
        seed_id, graft = record.seed_id, self._session.host.graft(record.seed_id)
        if graft.route == "bypass" and seed_id not in self._session.shadowed:
            return
        learning = [parameter for parameter in graft.seed.parameters() if parameter.requires_grad]
        if learning and all(parameter.grad is None for parameter in learning):
            raise UnreachedSeedError(
                f"No gradient reaches seed {seed_id} at site {record.site}. See that the loss depends on that site.",
                details={"seed_id": seed_id},
            )
        if learning:
            self._arrived.add((seed_id, record.stage))
