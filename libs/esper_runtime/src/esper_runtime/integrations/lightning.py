"""A session inside a Lightning Trainer, as a callback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from esper_core.errors import DependencyViolationError, ValidationError
from esper_runtime.contracts import Site
from esper_runtime.integrations import missing_extra
from esper_runtime.own_loop import GrowthStep, HeldOut, Rules, Session

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing_extra("lightning", error) from error


class GrowthCallback(Callback):
    """Grows a LightningModule under automatic optimization.

    Parameters
    ----------
    sites : Sequence[Site]
        Where the LightningModule may grow; module paths begin at it, such as `net.0`.
    held_out : HeldOut
        What seeds are judged on; its loss gets the LightningModule.
    plan : Sequence[GrowthStep]
        What to grow and when.
    steps : int, optional
        The budget in optimizer steps; by default what the Trainer expects to make.
    rules : Rules, optional
        Steps per stage and bounds of the judge.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        held_out: HeldOut,
        plan: Sequence[GrowthStep],
        *,
        steps: int | None = None,
        rules: Rules | None = None,
    ) -> None:
        super().__init__()
        self._sites, self._held_out, self._plan, self._steps, self._rules = sites, held_out, plan, steps, rules
        self._session: Session | None = None
        self._loss: Tensor | None = None
        self._seen = 0

    @property
    def session(self) -> Session:
        """The session, once training has begun."""
        if self._session is None:
            raise DependencyViolationError("There is no session before training has begun.", dependency="session")
        return self._session

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the session.

        Raises
        ------
        ValidationError
            If the module has several optimizers or steps them itself, or the budget is not known.
        """
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise ValidationError(
                "A session needs one optimizer that Lightning steps.",
                field="optimizers",
                allowed="one optimizer under automatic optimization",
            )
        self._seen = trainer.global_step
        self._session = Session(
            pl_module,
            self._sites,
            trainer.optimizers[0],
            held_out=self._held_out,
            steps=self._budget(trainer),
            plan=self._plan,
            schedulers=[config.scheduler for config in trainer.lr_scheduler_configs],
            rules=self._rules,
        )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Remember the loss; of several accumulated batches the sum, so that none can hide."""
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Roll back where the loss is not finite; without gradients the step that follows changes nothing."""
        self.session.check(self._loss)
        self._loss = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Do what growth has due, once per optimizer step."""
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self.session.advance()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Settle what is still under way."""
        self.session.finish()

    def _budget(self, trainer: Any) -> int:
        steps = self._steps if self._steps is not None else trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValidationError(
                "The Trainer does not know how many steps it will make; give the callback steps.",
                field="steps",
                allowed="a whole number of at least 1",
            )
        return int(steps)
